"""The charts: what was measured is drawn, from the tables alone."""

from typing import Any

import polars as pl

from stages.contracts.schema import frame
from stages.reporting import charts
from stages.tables import (
    EVALUATIONS,
    JUDGE_EVALUATIONS,
    PAIR_LEDGER,
    SUMMARY,
)


def test_charts_of_what_was_not_measured_are_left_out() -> None:
    rows = [{"model": 0, "metric": "quality", "value": 2.0, "low": 1.5, "high": 3.0, "n": 3}]
    answers, judged = (frame(kind, []).with_columns(model=pl.lit(0)) for kind in (EVALUATIONS, JUDGE_EVALUATIONS))
    assert charts.judge_charts(frame(SUMMARY, rows), judged, "3 votes at temperature 0.5") == []
    (chart,) = charts.evaluation_charts(frame(SUMMARY, rows), answers, "2 samples at temperature 0.7")
    (line,) = chart.figure.series
    assert (chart.figure.places, line.x, line.y) == (["0"], [0.0], [2.0])
    assert (
        chart.note
        == "Held-out prompts. Sampled is the mean of 2 samples at temperature 0.7. The bar is the 95 % interval."
    )
    assert line.ends == [(1.5, 3.0)]


def test_outcomes_count_a_prompt_once() -> None:
    def row(prompt: str, pair: int, reason: str) -> dict[str, Any]:
        return {"kind": "actor", "prompt_id": prompt, "pair": pair, "reason": reason, "detail": "."}

    ledger = [row("p", 2, "margin"), row("q", 1, "identical"), row("q", 0, "overlong"), row("r", 0, "tie")]
    pairs = pl.DataFrame({"iteration": [1, 1, 1], "prompt_id": ["p", "p", "q"], "kind": ["actor", "actor", "judge"]})
    results = charts.outcomes(pairs, frame(PAIR_LEDGER, ledger).with_columns(iteration=pl.lit(1, pl.Int64)))
    assert set(results.select("prompt_id", "kind", "outcome").iter_rows()) == {
        ("p", "actor", "pair"), ("q", "actor", "overlong"), ("q", "judge", "pair"), ("r", "actor", "tie"),
    }  # fmt: skip
    assert results.height == 4


def test_signs_are_drawn_with_shares_in_one_chart() -> None:
    names = ["top score", "ties", "first slot wins", "order flips", "higher score wins", "mean score", "judge variance"]
    signs = pl.DataFrame({"iteration": [1] * len(names), "sign": names, "value": [0.5] * len(names)})
    titles = {chart.title: {trace.name for trace in chart.figure.series} for chart in charts.collapse_charts(signs)}
    assert titles["Shares to watch"] == set(names[:5])
    assert set(titles) == {"Shares to watch", "Mean score", "Judge variance"}
