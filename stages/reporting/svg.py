"""Figures as SVG. Colours are the style sheet's, by class, so that a chart follows light, dark and paper; each mark
tells its number where a pointer rests on it. Text is escaped by the library that writes the elements."""

import math
from itertools import pairwise
from typing import NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from stages.reporting.figures import Figure, Series

WIDTH = 400
LEFT, RIGHT, TOP, BOTTOM = 52, 392, 8, 190
COLOURS = 8
"""The style sheet's classes `c0` to `c7`."""
_LINE, _CHARACTER = 13, 6.5
"""Height and width in a label, about."""


class Scale(NamedTuple):
    """Numbers from `low` to `high` as places from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return round(self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start), 1)


def svg(figure: Figure, title: str) -> str:
    """The drawing of a figure that has data; its legend is the page's."""
    lines = 1 + max((name.count("\n") for name in figure.places), default=0)
    height = BOTTOM + 10 + _LINE * (lines + bool(figure.x_title))
    root = Element("svg", {"viewBox": f"0 0 {WIDTH} {height}", "role": "img", "aria-label": f"Chart: {title}"})
    ticks = _heights(figure)
    x, y = _across(figure), Scale(ticks[0], ticks[-1], BOTTOM, TOP)
    _rows(root, figure, y, ticks)
    _places(root, figure, x)
    SubElement(root, "text", x=str((LEFT + RIGHT) / 2), y=str(height - 5)).text = figure.x_title
    for index, series in enumerate(figure.series):
        group = SubElement(root, "g", {"class": colour(series)})
        if figure.shape in ("lines", "curves"):
            _line(group, figure, series, x, y)
        else:
            _bars(group, figure, index, x, y)
    return tostring(root, encoding="unicode")


def colour(series: Series) -> str:
    """The class of a series: its colour, and whether it is dotted."""
    return f"c{series.colour % COLOURS}" + (" dotted" if series.dotted else "")


def round_ticks(low: float, high: float, steps: int = 5) -> list[float]:
    """Round numbers, about so many steps of equal size, from the last one below `low` to the first one above `high`."""
    rough = (high - low) / steps or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def number(value: float, percent: bool = False, digits: int = 3) -> str:
    """`1,234.5` or `12.3%`, with no more digits than it needs."""
    text = f"{value * 100 if percent else value:,.{max(0, digits - 2 if percent else digits)}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + ("%" if percent else "")


def _heights(figure: Figure) -> list[float]:
    """Ticks of the vertical axis, which holds all values with their intervals."""
    values = [base + value for index in range(len(figure.series)) for base, value in _upon(figure, index)]
    values += [end for series in figure.series for ends in series.ends for end in ends]
    if figure.from_zero or figure.shape in ("grouped", "stacked"):
        values.append(0.0)
    return round_ticks(min(values), max(values))


def _upon(figure: Figure, index: int) -> list[tuple[float, float]]:
    """What each value of a series stands on: where bars are stacked, on those of the series before; and the value."""
    below = figure.series[:index] if figure.shape == "stacked" else []
    return [(sum(series.y[at] for series in below), value) for at, value in enumerate(figure.series[index].y)]


def _across(figure: Figure) -> Scale:
    """The horizontal scale: half a place, or a little, is free at both sides."""
    values = [value for series in figure.series for value in series.x]
    low, high = (0.0, len(figure.places) - 1.0) if figure.places else (min(values), max(values))
    free = 0.5 if figure.places else _gap(figure) * 0.5 if figure.shape == "grouped" else (high - low) * 0.03 or 0.5
    return Scale(low - free, high + free, LEFT, RIGHT)


def _gap(figure: Figure) -> float:
    """Distance of the nearest two values."""
    return min((b - a for a, b in pairwise(sorted({x for series in figure.series for x in series.x}))), default=1.0)


def _rows(root: Element, figure: Figure, y: Scale, ticks: list[float]) -> None:
    """Lines across at the ticks of the vertical axis, with their numbers."""
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    for tick in ticks:
        SubElement(root, "path", {"class": "grid"}, d=f"M{LEFT} {y(tick)}H{RIGHT}")
        label = number(tick, figure.percent, digits)
        SubElement(root, "text", {"class": "end"}, x=str(LEFT - 5), y=str(y(tick) + 4)).text = label


def _places(root: Element, figure: Figure, x: Scale) -> None:
    """Names along the horizontal axis, as many as have room."""
    places: dict[float, str] = dict(enumerate(figure.places)) or {
        tick: number(tick) for tick in round_ticks(x.low, x.high, 8) if x.low <= tick <= x.high
    }
    widest = max(len(line) for name in places.values() for line in name.split("\n"))
    each = math.ceil(len(places) * (widest + 1) * _CHARACTER / (RIGHT - LEFT))
    for place, name in list(places.items())[::each]:
        for row, line in enumerate(name.split("\n")):
            SubElement(root, "text", x=str(x(place)), y=str(BOTTOM + 15 + _LINE * row)).text = line


def _line(group: Element, figure: Figure, series: Series, x: Scale, y: Scale) -> None:
    points = [(x(a), y(b)) for a, b in zip(series.x, series.y, strict=True)]
    SubElement(group, "polyline", points=" ".join(f"{a},{b}" for a, b in points))
    for (a, _), (low, high) in zip(points, series.ends, strict=False):
        if low < high:
            SubElement(group, "path", d=f"M{a} {y(low)}V{y(high)}m-3 0h6M{a - 3:.1f} {y(low)}h6")
    if figure.shape == "lines":
        for at, (a, b) in enumerate(points):
            _tell(SubElement(group, "circle", cx=str(a), cy=str(b), r="2.5"), figure, series, at)


def _bars(group: Element, figure: Figure, index: int, x: Scale, y: Scale) -> None:
    """Bars of the series of this index, side by side with the others' unless they are stacked."""
    series, beside = figure.series[index], len(figure.series) if figure.shape == "grouped" else 1
    width = max(1.0, 0.8 * (x(_gap(figure)) - x(0)) / beside)
    shift = (index % beside - beside / 2) * width
    for at, (base, value) in enumerate(_upon(figure, index)):
        if value:
            left, top = f"{x(series.x[at]) + shift:.1f}", y(base + value)
            size = {"x": left, "y": str(top), "width": f"{width:.1f}", "height": f"{y(base) - top:.1f}"}
            _tell(SubElement(group, "rect", size), figure, series, at)


def _tell(mark: Element, figure: Figure, series: Series, at: int) -> None:
    """What a mark stands for, as its tooltip: `kept, iteration 2: 6`."""
    place = series.x[at]
    name = " ".join(reversed(figure.places[int(place)].split("\n"))) if figure.places else number(place)
    where = f"{figure.x_title} {name}".strip()
    said = f"{series.name}, {where}" if series.name else where
    SubElement(mark, "title").text = f"{said}: {number(series.y[at], figure.percent)}"
