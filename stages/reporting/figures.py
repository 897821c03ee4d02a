"""Plotly figures of the shapes that the report draws: data frames in, figures out.

Frames of the iterations carry a column `iteration`, frames of the evaluation a column `model`. Figures leave the
colours of text, grid and background to the page, which knows whether it is shown light or dark.
"""

from itertools import cycle
from typing import Any

import plotly.graph_objects as go
import polars as pl

PALETTE = ["#3d85c6", "#e08a2e", "#3a9d78", "#b565a7", "#cf5c55", "#b39b2c", "#5bb0c4", "#8d93a1"]
BASE_MODEL = -1
_MOST_BARS = 25


def model_name(number: int) -> str:
    """How the page calls a model: by its number, or `base` for the one before EFT."""
    return "base" if number == BASE_MODEL else str(number)


def layout(**more: Any) -> go.Layout:
    """What all figures have in common, and more."""
    return go.Layout(
        template="none",
        height=320,
        margin={"l": 48, "r": 12, "t": 36, "b": 44},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        hovermode="x unified",
        **more,
    )


def by_model(summary: pl.DataFrame, names: dict[str, str], tickformat: str | None = None) -> go.Figure:
    """One line with intervals for each metric of `names` that was measured."""
    figure = go.Figure(layout=layout(yaxis={"tickformat": tickformat}))
    for (metric, name), colour in zip(names.items(), PALETTE, strict=False):
        rows = summary.filter(pl.col("metric") == metric).sort("model")
        if rows.is_empty():
            continue
        above, below = rows["high"] - rows["value"], rows["value"] - rows["low"]
        ends = {"type": "data", "array": above.to_list(), "arrayminus": below.to_list(), "thickness": 1.5, "width": 5}
        x = [_label("model", model) for model in rows["model"]]
        figure.add_scatter(
            x=x, y=rows["value"].to_list(), error_y=ends, name=name, mode="lines+markers", line_color=colour
        )
    return figure.update_layout(showlegend=len(figure.data) > 1)


def by_iteration(rows: pl.DataFrame, series: str, value: str) -> go.Figure:
    """One line per value of `series`, over the iterations."""
    return lines(rows, "iteration", value, series).update_xaxes(dtick=1)


def lines(rows: pl.DataFrame, x: str, y: str, series: str) -> go.Figure:
    """One line per value of `series`; numbers are named after their column (`iteration 1`)."""
    figure = go.Figure(layout=layout(xaxis={"title": {"text": x}}))
    names = rows[series].unique(maintain_order=True)
    numbered = names.dtype.is_integer()
    for name, colour in zip(names.sort() if numbered else names, cycle(PALETTE), strict=False):
        part = rows.filter(pl.col(series) == name).sort(x)
        label = _label(series, name)
        figure.add_scatter(
            x=part[x].to_list(), y=part[y].to_list(), name=label, mode="lines+markers", line_color=colour
        )
    return figure


def curves(metrics: pl.DataFrame, names: dict[str, str]) -> go.Figure:
    """Metrics over the optimizer steps, a line per iteration in its own colour: the first of `names` solid, the second
    one dotted. `names` gives what is said of each metric beside the iteration, if anything."""
    figure = go.Figure(layout=layout(xaxis={"title": {"text": "step"}}, showlegend=True))
    for (metric, name), dash in zip(names.items(), ("solid", "dot"), strict=False):
        rows = metrics.filter(pl.col("metric") == metric).sort("iteration", "step")
        for (iteration,), part in rows.group_by("iteration", maintain_order=True):
            figure.add_scatter(
                x=part["step"].to_list(),
                y=part["value"].to_list(),
                name=", ".join(filter(None, (_label("iteration", iteration), name))),
                mode="lines",
                line={"color": PALETTE[(iteration - 1) % len(PALETTE)], "dash": dash},
            )
    return figure


def histogram(rows: pl.DataFrame, value: str, series: str) -> go.Figure:
    """Share of each value within each series, as grouped bars; values are binned where there are very many."""
    figure = go.Figure(layout=layout(xaxis={"title": {"text": value}}, yaxis={"tickformat": ".0%"}, barmode="group"))
    if rows[value].n_unique() > _MOST_BARS:
        low, high = float(rows[value].min()), float(rows[value].max())  # type: ignore[arg-type]
        width = (high - low) / (_MOST_BARS - 1)
        rows = rows.with_columns(((pl.col(value) - low) / width).round() * width + low)
    counts = rows.group_by(series, value).len().with_columns(share=pl.col("len") / pl.col("len").sum().over(series))
    groups = counts.sort(series, value).group_by(series, maintain_order=True)
    for ((name,), part), colour in zip(groups, cycle(PALETTE), strict=False):
        x, y = part[value].to_list(), part["share"].to_list()
        figure.add_bar(x=x, y=y, name=_label(series, name), marker_color=colour)
    return figure


def stacked(rows: pl.DataFrame, series: str, first: str, within: str | None = None) -> go.Figure:
    """Number of rows by `series` (value `first` at the bottom), stacked, over the iterations (and kinds `within`)."""
    figure = go.Figure(layout=layout(barmode="stack", showlegend=True))
    levels = ["iteration", within] if within else ["iteration"]
    slots = rows.select(levels).unique().sort(levels)
    sizes = rows.group_by(series).len().sort(pl.col(series) == first, "len", series, descending=[True, True, False])
    x = [[f"iteration {number}" for number in slots["iteration"]], *([slots[within].to_list()] if within else [])]
    for name, colour in zip(sizes[series], cycle(PALETTE), strict=False):
        counts = rows.filter(pl.col(series) == name).group_by(levels).len()
        y = slots.join(counts, on=levels, how="left", maintain_order="left")["len"].fill_null(0).to_list()
        figure.add_bar(x=x if within else x[0], y=y, name=name, marker_color=colour)
    return figure


def bars(rows: pl.DataFrame, column: str, first: str) -> go.Figure:
    """Number of rows by the value of a column: `first`, then the most frequent ones."""
    counts = rows.group_by(column).len().sort(pl.col(column) == first, "len", column, descending=[True, True, False])
    figure = go.Figure(layout=layout(showlegend=False))
    if counts.height:
        figure.add_bar(x=counts[column].to_list(), y=counts["len"].to_list(), marker_color=PALETTE[0])
    return figure


def _label(series: str, name: int | str) -> str:
    """Numbers are named after their series (`iteration 1`), the base model is just that."""
    if isinstance(name, str):
        return name
    return "base model" if series == "model" and name == BASE_MODEL else f"{series} {name}"
