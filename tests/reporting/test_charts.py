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
    WIN_RATES,
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


def test_without_an_oracle_checks_and_wins_are_drawn() -> None:
    def measured(**values: tuple[float, float, float]) -> list[dict[str, Any]]:
        return [{"model": 1, "metric": name, "value": value, "low": low, "high": high, "n": 3}
                for name, (value, low, high) in values.items()]  # fmt: skip

    summary = frame(SUMMARY, measured(prompt_strict=(0.5, 0.4, 0.6), prompt_strict_greedy=(0.75, 0.7, 0.8)))
    answers = frame(EVALUATIONS, []).with_columns(model=pl.lit(0))
    (chart,) = charts.evaluation_charts(summary, answers, "2 samples at temperature 0.7")
    assert (chart.title, chart.figure.percent) == ("Instructions followed by model", True)
    assert {line.name: line.y for line in chart.figure.series} == {"sampled": [0.5], "greedy": [0.75]}
    wins = [{**row, "other": other} for other in ("0", "references")
            for row in measured(win_rate=(0.625, 0.5, 0.75), tie_share=(0.25, 0.2, 0.3))]  # fmt: skip
    (chart,) = charts.match_charts(frame(WIN_RATES, wins))
    (line,) = chart.figure.series
    assert (line.name, line.y, line.ends) == ("wins", [0.625], [(0.5, 0.75)])
    assert charts.match_charts(frame(WIN_RATES, [])) == []


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
