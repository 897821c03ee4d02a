"""Figures: what is left out, thinned or binned of a frame."""

import polars as pl
import pytest

from stages.reporting import figures


def metrics(values: list[float], metric: str = "loss") -> pl.DataFrame:
    rows = [(2, step, metric, value) for step, value in enumerate(values, start=1)]
    return pl.DataFrame(rows, schema=["iteration", "step", "metric", "value"], orient="row")


def test_a_short_curve_has_all_its_steps() -> None:
    (series,) = figures.curves(metrics([0.5, 0.25, float("nan"), 1.0]), {"loss": "", "accuracy": "held out"}).series
    assert (series.name, series.colour, series.dotted) == ("iteration 2", 1, False)
    assert (series.x, series.y) == ([1, 2, 4], [0.5, 0.25, 1.0])


def test_a_long_curve_has_means_of_neighbours() -> None:
    (series,) = figures.curves(metrics([float(step) for step in range(1, 1001)]), {"loss": ""}).series
    assert len(series.x) == 201
    assert (series.x[:2], series.x[-1]) == ([2.5, 7.0], 1000.0), "steps 1 to 4, 5 to 9, and the last"
    assert series.y == series.x


def test_intervals_are_ends_and_a_value_without_one_is_its_own() -> None:
    rows = [(0, "a", 2.0, 1.5, 3.0), (-1, "a", 1.0, None, None), (0, "b", 5.0, 4.0, 6.0), (0, "c", None, None, None)]
    summary = pl.DataFrame(rows, schema=["model", "metric", "value", "low", "high"], orient="row")
    figure = figures.by_model(summary, {"b": "B", "c": "C", "a": "A"})
    assert figure.places == ["base", "0"]
    assert [(series.name, series.x, series.ends) for series in figure.series] == [
        ("B", [1.0], [(4.0, 6.0)]), ("A", [0.0, 1.0], [(1.0, 1.0), (1.5, 3.0)]),
    ]  # fmt: skip


def test_many_values_are_binned() -> None:
    rows = pl.DataFrame({"score": [number / 100 for number in range(101)], "iteration": 1})
    (series,) = figures.histogram(rows, "score", "iteration").series
    assert len(series.x) == 25
    assert (series.x[0], series.x[-1]) == (0.0, 1.0)
    assert sum(series.y) == pytest.approx(1.0)
