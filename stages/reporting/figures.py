"""Figures of the shapes that the report draws: data frames in; numbers and names out, for `stages.reporting.svg`.

Frames of the iterations carry a column `iteration`, frames of the evaluation a column `model`.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import polars as pl

BASE_MODEL = -1
_MOST_BARS = 25
_MOST_POINTS = 200
"""Points of a curve; a chart has not many more pixels."""


class Series(NamedTuple):
    """A line, or bars of one colour, and its name in the legend; `ends` of the interval at each point, if any."""

    name: str
    x: list[float]
    y: list[float]
    colour: int
    ends: Sequence[tuple[float, float]] = ()
    dotted: bool = False


class Figure(NamedTuple):
    """Series over one axis. With `places`, x = 0, 1, ... have names; a name may have two lines."""

    shape: Literal["lines", "curves", "grouped", "stacked"]
    series: list[Series]
    x_title: str = ""
    places: Sequence[str] = ()
    percent: bool = False
    from_zero: bool = False


def model_name(number: int) -> str:
    """How the page calls a model: by its number, or `base` for the one before EFT."""
    return "base" if number == BASE_MODEL else str(number)


def by_model(summary: pl.DataFrame, names: dict[str, str], percent: bool = False) -> Figure:
    """One line with intervals for each metric of `names` that was measured."""
    rows = summary.filter(pl.col("metric").is_in(list(names)) & pl.col("value").is_finite()).sort("model")
    places = {model: float(place) for place, model in enumerate(rows["model"].unique().sort())}
    series: list[Series] = []
    for metric, name in names.items():
        part = rows.filter(metric=metric)
        ends = part.select(pl.col("low", "high").fill_null(pl.col("value"))).rows()
        if part.height:
            x = [places[model] for model in part["model"]]
            series.append(Series(name, x, part["value"].to_list(), len(series), ends))
    return Figure("lines", series, "model", [model_name(model) for model in places], percent)


def by_iteration(rows: pl.DataFrame, series: str, value: str, percent: bool = False, from_zero: bool = False) -> Figure:
    """One line per value of `series`, over the iterations."""
    iterations = rows["iteration"].unique().sort()
    places = pl.DataFrame({"iteration": iterations, "place": range(iterations.len())})
    figure = lines(rows.join(places, on="iteration", maintain_order="left"), "place", value, series)
    names = [str(iteration) for iteration in iterations]
    return figure._replace(x_title="iteration", places=names, percent=percent, from_zero=from_zero)


def lines(rows: pl.DataFrame, x: str, y: str, series: str) -> Figure:
    """One line per value of `series`; numbers are named after their column (`iteration 1`)."""
    names = rows[series].unique(maintain_order=True)
    parts = [
        (name, rows.filter(pl.col(series) == name).sort(x))
        for name in (names.sort() if names.dtype.is_integer() else names)
    ]
    drawn = [_series(series, name, part[x], part[y], colour) for colour, (name, part) in enumerate(parts)]
    return Figure("lines", drawn, x)


def curves(metrics: pl.DataFrame, names: dict[str, str]) -> Figure:
    """Metrics over the optimizer steps, a line per iteration in its own colour: the first of `names` solid, the second
    one dotted. `names` gives what is said of each metric beside the iteration, if anything. Of more steps than a chart
    has room for, each point is the mean of some."""
    series: list[Series] = []
    each = -(-int(metrics["step"].max() or 0) // _MOST_POINTS) or 1  # type: ignore[arg-type]
    for (metric, name), dotted in zip(names.items(), (False, True), strict=False):
        rows = metrics.filter((pl.col("metric") == metric) & pl.col("value").is_finite()).sort("iteration", "step")
        for (iteration,), part in rows.group_by("iteration", maintain_order=True):
            means = part.group_by(pl.col("step") // each, maintain_order=True).agg(pl.col("value").mean(), x="step")
            label = ", ".join(filter(None, (_label("iteration", iteration), name)))
            x = means["x"].list.mean().to_list()
            series.append(Series(label, x, means["value"].to_list(), int(iteration) - 1, dotted=dotted))
    return Figure("curves", series, "step")


def histogram(rows: pl.DataFrame, value: str, series: str) -> Figure:
    """Share of each value within each series, as grouped bars; values are binned where there are very many."""
    if rows[value].n_unique() > _MOST_BARS:
        low, high = float(rows[value].min()), float(rows[value].max())  # type: ignore[arg-type]
        width = (high - low) / (_MOST_BARS - 1)
        rows = rows.with_columns(((pl.col(value) - low) / width).round() * width + low)
    counts = rows.group_by(series, value).len().with_columns(share=pl.col("len") / pl.col("len").sum().over(series))
    groups = counts.sort(series, value).group_by(series, maintain_order=True)
    drawn = [_series(series, name, part[value], part["share"], i) for i, ((name,), part) in enumerate(groups)]
    return Figure("grouped", drawn, value, percent=True)


def stacked(rows: pl.DataFrame, series: str, first: str, within: str | None = None) -> Figure:
    """Number of rows by `series` (value `first` at the bottom), stacked, over the iterations (and kinds `within`)."""
    levels = ["iteration", within] if within else ["iteration"]
    slots = rows.select(levels).unique().sort(levels)
    drawn = []
    sizes = rows.group_by(series).len().sort(pl.col(series) == first, "len", series, descending=[True, True, False])
    for colour, name in enumerate(sizes[series]):
        counts = rows.filter(pl.col(series) == name).group_by(levels).len()
        y = slots.join(counts, on=levels, how="left", maintain_order="left")["len"].fill_null(0)
        drawn.append(_series(series, name, pl.int_range(y.len(), eager=True), y, colour))
    places = ["\n".join(map(str, reversed(slot))) for slot in slots.iter_rows()]
    return Figure("stacked", drawn, "iteration", places)


def _series(kind: str, name: Any, x: pl.Series, y: pl.Series, colour: int) -> Series:
    return Series(_label(kind, name), x.cast(pl.Float64).to_list(), y.cast(pl.Float64).to_list(), colour)


def _label(series: str, name: Any) -> str:
    """Numbers are named after their series (`iteration 1`), the base model is just that."""
    if isinstance(name, str):
        return name
    return "base model" if series == "model" and name == BASE_MODEL else f"{series} {name}"
