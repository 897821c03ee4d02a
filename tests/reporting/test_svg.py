"""Drawings: marks are where the numbers are, and tell them."""

from xml.etree.ElementTree import Element, fromstring

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.reporting.figures import Figure, Series
from stages.reporting.svg import BOTTOM, LEFT, RIGHT, TOP, colour, number, round_ticks, svg
from tests.support.synthetic_rules import SCRIPT

FINITE = st.floats(-1e9, 1e9, allow_subnormal=False).filter(lambda value: value == 0 or abs(value) > 1e-6)


def drawn(figure: Figure, title: str = "T") -> Element:
    return fromstring(svg(figure, title))


def numbers(mark: Element, *names: str) -> list[float]:
    return [float(mark.attrib[name]) for name in names]


@given(FINITE, FINITE)
def test_ticks_are_round_hold_both_ends_and_are_few(one: float, other: float) -> None:
    low, high = sorted((one, other))
    ticks = round_ticks(low, high)
    slack = 1e-6 * (high - low) + 1e-9 * abs(high) + 1e-9
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))


def test_ticks_by_hand() -> None:
    assert round_ticks(0, 4608) == [0, 1000, 2000, 3000, 4000, 5000]
    assert round_ticks(1.96, 4.6) == [1, 2, 3, 4, 5]
    assert round_ticks(0.871, 0.966) == [0.86, 0.88, 0.9, 0.92, 0.94, 0.96, 0.98]
    assert round_ticks(3, 3) == [0, 5]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ((1234.5,), "1,234.5"),
        ((0.125, True), "12.5%"),
        ((0.5, True), "50%"),
        ((0.0004,), "0"),
        ((100.0, False, 0), "100"),
    ],
)
def test_numbers_have_no_more_digits_than_they_need(given: tuple[float, ...], text: str) -> None:
    assert number(*given) == text  # type: ignore[arg-type]


def test_points_and_intervals_are_in_their_places() -> None:
    """Ticks go from 0 to 10; model 1 is the second of two places."""
    series = Series("greedy", [0, 1], [0.0, 10.0], 3, [(0.0, 0.0), (5.0, 10.0)])
    picture = drawn(Figure("lines", [series], "model", ["base", "1"]))
    first, second = (numbers(mark, "cx", "cy") for mark in picture.iter("circle"))
    quarter = (RIGHT - LEFT) / 4
    assert first == [LEFT + quarter, BOTTOM]
    assert second == [RIGHT - quarter, TOP]
    assert picture.find("g").attrib["class"] == "c3"  # type: ignore[union-attr]
    (interval,) = picture.findall("g/path")
    assert interval.attrib["d"].startswith(f"M{second[0]} {(TOP + BOTTOM) / 2}V{float(TOP)}")
    assert [mark.text for mark in picture.iter("title")] == ["greedy, model base: 0", "greedy, model 1: 10"]


def test_stacked_bars_stand_on_each_other() -> None:
    lower, upper = Series("pair", [0, 1], [6.0, 0.0], 0), Series("tie", [0, 1], [4.0, 10.0], 1)
    picture = drawn(Figure("stacked", [lower, upper], "iteration", ["actor\n1", "judge\n1"]))
    pair, tie, alone = (numbers(bar, "x", "y", "height") for bar in picture.iter("rect"))
    height = BOTTOM - TOP
    assert pair == pytest.approx([pair[0], BOTTOM - 0.6 * height, 0.6 * height], abs=0.11)
    assert tie == pytest.approx([pair[0], TOP, 0.4 * height], abs=0.11)
    assert alone == pytest.approx([alone[0], TOP, height])
    assert [mark.text for mark in picture.iter("title")][2] == "tie, iteration 1 judge: 10", "and none for nothing"


def test_grouped_bars_stand_side_by_side() -> None:
    groups = [Series(name, [0.0, 1.0], [0.5, 0.25], at) for at, name in enumerate("ab")]
    picture = drawn(Figure("grouped", groups, "score", percent=True))
    bars = [numbers(bar, "x", "width", "y") for bar in picture.iter("rect")]
    a, b = bars[0], bars[2]
    assert b[0] == pytest.approx(a[0] + a[1], abs=0.11)
    assert [bars[0][2], bars[2][2]] == [TOP, TOP]
    assert bars[1][2] == pytest.approx((TOP + BOTTOM) / 2, abs=0.11)
    assert "0%" in [text.text for text in picture.iter("text")]


def test_labels_that_have_no_room_are_left_out_but_told() -> None:
    places = [f"a long name {place}" for place in range(20)]
    picture = drawn(Figure("lines", [Series("", list(range(20)), [1.0] * 20, 0)], places=places))
    labels = [text.text for text in picture.iter("text") if (text.text or "").startswith("a long")]
    assert labels == ["a long name 0", "a long name 6", "a long name 12", "a long name 18"]
    assert len(list(picture.iter("title"))) == 20


def test_classes_repeat_and_say_what_is_dotted() -> None:
    assert colour(Series("x", [], [], 9, dotted=True)) == "c1 dotted"


def test_names_are_text() -> None:
    series = Series(SCRIPT, [0], [1.0], 0)
    text = svg(Figure("stacked", [series], SCRIPT, [SCRIPT]), SCRIPT)
    assert "<img" not in text
    assert "</script" not in text
    assert {element.tag for element in fromstring(text).iter()} <= {"svg", "g", "path", "rect", "text", "title"}
