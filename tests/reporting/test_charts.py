"""The charts: what was measured is drawn, from the tables alone."""

from typing import Any

import polars as pl
import pytest

from stages.contracts.schema import frame
from stages.reporting import charts
from stages.tables import (
    BATTLES,
    EVALUATIONS,
    JUDGE_EVALUATIONS,
    PAIR_LEDGER,
    SCORES,
    SUMMARY,
    VOTES,
)


def test_charts_of_what_was_not_measured_are_left_out() -> None:
    rows = [{"model": 0, "metric": "quality", "value": 2.0, "low": 1.5, "high": 3.0, "n": 3}]
    answers, judged = (frame(kind, []).with_columns(model=pl.lit(0)) for kind in (EVALUATIONS, JUDGE_EVALUATIONS))
    assert charts.judge_charts(frame(SUMMARY, rows), judged) == []
    (chart,) = charts.evaluation_charts(frame(SUMMARY, rows), answers)
    (line,) = chart.figure.data
    assert (line.x, line.y) == (("model 0",), (2.0,))
    assert (line.error_y.array, line.error_y.arrayminus) == ((1.0,), (0.5,))


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


def test_collapse_signs_by_hand() -> None:
    key = {"prompt_id": "p", "candidate_id": "c"}
    given_votes = [(0, 5.0), (1, 5.0), (2, 2.0), (3, None)]
    parsed = {"parse_status": "ok", "finish_reason": "stop", "tokens": 1}
    votes = [{**key, "vote": vote, "score": score, **parsed} for vote, score in given_votes]
    numbers = [("c", 4.0, 2.0), ("d", 1.0, 1.0), ("e", None, None)]
    scores = [{**key, "candidate_id": name, "score": score, "variance": value} for name, score, value in numbers]
    # (0, 1) flips with the order; judgement 0 has the higher score in (0, 2) and (2, 0), judgement 1 in (2, 1).
    wins = [(0, 1, "a"), (1, 0, "a"), (0, 2, "a"), (2, 0, "b"), (1, 2, None), (2, 1, "a")]
    battles = [{**key, "vote_a": a, "vote_b": b, "winner": winner, "parse_status": "ok"} for a, b, winner in wins]
    results = pl.DataFrame(
        {"prompt_id": list("pqrsp"), "kind": [*["actor"] * 4, "judge"], "outcome": ["tie", *["pair"] * 3, "tie"]}
    )
    one = pl.lit(1, pl.Int64).alias("iteration")
    frames = [frame(VOTES, votes), frame(SCORES, scores), results, frame(BATTLES, battles)]
    signs = charts.collapse_signs(*[rows.with_columns(one) for rows in frames])
    assert dict(signs.select("sign", "value").iter_rows()) == pytest.approx(
        {
            "top score": 2 / 3,
            "ties": 1 / 4,
            "mean score": 2.5,
            "judge variance": 1.5,
            "first slot wins": 4 / 5,
            "order flips": 1 / 2,
            "higher score wins": 2 / 3,
        }
    )
    titles = {chart.title: {trace.name for trace in chart.figure.data} for chart in charts.collapse_charts(signs)}
    assert titles["Shares to watch"] == {"top score", "ties", "first slot wins", "order flips", "higher score wins"}
    assert set(titles) == {"Shares to watch", "Mean score", "Judge variance"}
