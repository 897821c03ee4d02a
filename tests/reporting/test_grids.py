"""The tables of a report."""

from stages.contracts.schema import frame
from stages.reporting import grids
from stages.tables import SUMMARY


def test_metrics_that_were_not_measured_have_no_column() -> None:
    rows = [{"model": 0, "metric": "tokens", "value": 12.0, "low": None, "high": None, "n": 3}]
    summary = frame(SUMMARY, rows)
    assert grids.by_model(summary, grids.HEADLINE) == (["Model", "Mean length"], [["0", "12.0"]])
    assert grids.judge_grids(summary) == []


def test_a_cell_says_how_far_the_interval_reaches_to_each_side() -> None:
    ends = [("quality", 2.0, 1.9, 2.1), ("judge_accuracy", 0.95, 0.9, 0.97)]
    ends += [("meta_accuracy", 1.0, 0.8, 1.0), ("tokens", 9.0, 7.0, 10.8)]
    rows = [{"model": 1, "metric": name, "value": value, "low": a, "high": b, "n": 9} for name, value, a, b in ends]
    head, cells = grids.by_model(frame(SUMMARY, rows), grids.HEADLINE)
    assert head == ["Model", "True quality", "Judge accuracy", "Meta-judge accuracy", "Mean length"]
    assert cells == [["1", "2.00 ± 0.10", "95.0% -5.0% +2.0%", "100.0% -20.0% +0.0%", "9.0 ± 1.9"]]
