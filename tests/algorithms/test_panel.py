"""Judges side by side, on numbers that were worked out by hand."""

import polars as pl
import pytest

from stages.algorithms.panel import panel
from stages.reporting.grids import panel_grids

VOTES = {  # judge -> candidate -> votes
    "a": {"p-0": [4.0, 2.0], "p-1": [1.0, None], "p-2": [5.0, 5.0]},
    "b": {"p-0": [2.0, 2.0], "p-1": [3.0, 3.0], "p-2": [4.0, None]},
    "c": {"p-0": [1.0, 1.0], "p-1": [1.0, 1.0], "p-2": [None, None]},
}


def rows(judges: dict[str, dict[str, list[float | None]]], iteration: int = 1) -> pl.DataFrame:
    found = [
        {"iteration": iteration, "prompt_id": "p", "candidate_id": name, "vote": vote, "judge": judge, "score": score}
        for judge, candidates in judges.items()
        for name, scores in candidates.items()
        for vote, score in enumerate(scores)
    ]
    return pl.DataFrame(found, schema_overrides={"score": pl.Float64})


def test_each_judge_is_measured_against_the_mean_of_the_others() -> None:
    found = {row.pop("judge"): row for row in panel(rows(VOTES)).iter_rows(named=True)}
    assert found["a"] == {
        "iteration": 1, "votes": 6, "parsed": pytest.approx(5 / 6), "score": pytest.approx(17 / 5),
        "spread": pytest.approx(1 / 3), "agreement": pytest.approx(2 / 3), "compared": 3,
    }  # fmt: skip
    # The others' means: a 3, 1, 5 and c 1, 1 give 2, 1, 5 for b, which says 2, 3, 4: p-0 before p-1 is disagreed on.
    assert (found["b"]["agreement"], found["b"]["compared"]) == (pytest.approx(2 / 3), 3)
    # c tells nothing apart.
    assert (found["c"]["agreement"], found["c"]["compared"], found["c"]["parsed"]) == (None, 0, pytest.approx(4 / 6))


def test_a_judge_alone_is_no_panel() -> None:
    both = pl.concat([rows({"policy": VOTES["a"]}), rows({"x": VOTES["a"], "y": VOTES["b"]}, iteration=2)])
    assert panel(both).select("iteration", "judge").rows() == [(2, "x"), (2, "y")]
    assert panel(rows({"policy": VOTES["a"]})).is_empty()
    assert panel_grids(panel(rows({"policy": VOTES["a"]}))) == []


def test_the_order_of_votes_changes_nothing() -> None:
    votes = rows(VOTES)
    assert panel(votes.reverse()).equals(panel(votes))


def test_the_report_shows_a_row_for_each_judge() -> None:
    (grid,) = panel_grids(panel(rows(VOTES)))
    assert grid.rows[0] == ["1", "a", "6", "83.3%", "3.40", "0.33", "66.7%", "3"]
    assert grid.rows[2] == ["1", "c", "6", "66.7%", "1.00", "0.00", "", "0"]
