"""Texts of others as plain text and as JSON: no sign of them commands a terminal."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.inspection.plain import as_json, cut, harmless, number


@given(st.text())
def test_no_unseen_sign_is_left(text: str) -> None:
    shown = harmless(text)
    assert all(sign == "\n" or sign.isprintable() or sign.isspace() for sign in shown)
    assert not set(shown) & {"\x1b", "\x9b", "\r", "\u202e", "\u200b", "\u2028", "\x7f"}
    assert cut(shown, 1000).count("\n") == 0


@given(
    st.recursive(st.text() | st.floats() | st.none(), lambda part: st.dictionaries(st.text(), part) | st.lists(part))
)
def test_json_is_strict_and_has_no_control_sign(value: object) -> None:
    text = as_json(value)
    json.loads(text, parse_constant=pytest.fail)
    assert all(" " <= sign <= "~" or sign == "\n" for sign in text)


def test_signs_are_written_out() -> None:
    assert harmless({"\x1b[31m": ["a\tb\r\nc\x07", 1, None]}) == {"\\x1b[31m": ["a    b\nc\\x07", 1, None]}
    assert harmless("\u202eabc é 😀") == "\\u202eabc é 😀"
    assert json.loads(as_json({"x": [float("nan"), float("-inf"), 0.5], "y": "\x7f\x1b"})) == {
        "x": ["nan", "-inf", 0.5],
        "y": "\x7f\x1b",
    }


def test_long_texts_and_numbers_are_short() -> None:
    assert cut("one\ntwo", 10) == "one⏎two"
    assert cut("one\ntwo", None) == "one\ntwo"
    assert cut("abcdef", 4) == "abcd… (+2)"
    assert [number(value) for value in (None, 3, 2.0, 0.123456, 12345.6, 4.6e18, float("nan"))] == [
        "", "3", "2", "0.1235", "12346", "4.6e+18", "nan",
    ]  # fmt: skip
