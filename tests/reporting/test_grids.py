"""The tables of a report."""

from stages.contracts.schema import frame
from stages.reporting import grids
from stages.tables import SUMMARY


def test_metrics_that_were_not_measured_have_no_column() -> None:
    rows = [{"model": 0, "metric": "tokens", "value": 12.0, "low": None, "high": None, "n": 3}]
    summary = frame(SUMMARY, rows)
    assert grids.by_model(summary, grids.HEADLINE) == (["Model", "Mean length"], [["0", "12.0"]])
    assert grids.judge_grids(summary) == []
