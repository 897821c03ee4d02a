"""Verdicts by regular expressions: `strict`, and patterns of one's own, against arbitrary text."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.algorithms.parsing import REDACTED, parse_score, parse_winner, redact
from stages.algorithms.verdict_patterns import last_match, score_grammar
from stages.contracts.errors import StageError
from tests.support.verdict_texts import TEXTS

OWN_WINNER = r"(?i)best:\W*{{ winner }}"


def score(text: str, pattern: str = "strict") -> tuple[str, float | None]:
    return parse_score(text, "stop", pattern, 0, 5)[:2]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Score: 4", 4),
        ("**Score:** 4.5.", 4.5),
        ("__Score (0-5):__ 4/5", 4),
        ("Score [0-5]: <4>", 4),
        ("Score（0〜5）：４／５", 4),
        ("It is fair.\n  Score: 4  \r\nDone.", 4),
        ("Score: 5\nI disagree.\nScore: 2\nThey claim Score: 4, which is wrong.", 2),
    ],
)
def test_strict_reads_a_line_of_its_own(text: str, value: float) -> None:
    assert score(text) == ("ok", value)


@pytest.mark.parametrize(
    "text", ["Score: 4 - good", "So: Score: 3", "Score is 4", "> Score: 4", "Score:\n4", "Score: four"]
)
def test_strict_reads_nothing_else(text: str) -> None:
    assert score(text) == ("no_match", None)


@pytest.mark.parametrize("text", ["Score: 10", "Score: −1", "Score: 45", "Score: 1e3", "Score: 4/10"])
def test_out_of_range_is_reported_and_never_clamped(text: str) -> None:
    assert score(text) == ("out_of_range", None)


@pytest.mark.parametrize("text", ["Score: 3-4", "Score: 3 – 4", "Score: 3 to 4", "Score: 3-4/5", "Score: <3> or <4>"])
def test_a_range_is_no_score_and_no_earlier_score_takes_its_place(text: str) -> None:
    assert score(f"Score: 2\n{text}") == ("no_match", None)
    assert score(f"{text}\nScore: 2") == ("ok", 2)
    assert "4" not in redact(text, "strict")


def test_a_pattern_may_hold_a_range_or_a_scale_of_its_own() -> None:
    assert score("[4-5]", r"\[{{ score }}-5\]") == ("ok", 4)
    assert score("[4-5]", r"\[{{ score }}\]") == ("no_match", None)
    assert score("[4/5]", r"\[{{ score }}/5\]") == ("ok", 4)


def test_another_scale() -> None:
    assert parse_score("Note: 7/10", "stop", "Note: {{ score }}", 0, 10)[:2] == ("ok", 7)
    assert parse_score("Note: 4/5", "stop", "Note: {{ score }}", 0, 10)[:2] == ("out_of_range", None)


def test_a_pattern_whose_number_may_be_left_out_takes_the_last_number() -> None:
    assert score("4, then none", "(?:none|{{ score }})") == ("ok", 4)
    assert score("none", "(?:none|{{ score }})") == ("no_match", None)
    assert redact("4, then none", "(?:none|{{ score }})") == f"{REDACTED}, then none"


def test_a_winner_by_a_pattern_of_ones_own() -> None:
    assert parse_winner("Best: A. Best: **B**", "stop", OWN_WINNER) == ("ok", "b")
    assert parse_winner("Best: A. Best: A or B", "stop", OWN_WINNER) == ("no_match", None)


@given(TEXTS, st.sampled_from(["strict", "{{ score }}", r"(?i)score\W*{{ score }}"]))
def test_redaction_leaves_no_score_to_parse(text: str, pattern: str) -> None:
    assert last_match(score_grammar(pattern), "score", redact(text, pattern)) is None


@pytest.mark.parametrize("part", ["Score (", "Score: 4 ", "4-", " ", "*", "Score(4): ", "Score 4/5 to "])
def test_the_time_of_a_search_grows_with_the_text_and_not_with_its_square(part: str) -> None:
    began = time.process_time()
    last_match(score_grammar("strict"), "score", "Score: 4" + part * 50_000 + "Score: 4-")
    assert time.process_time() - began < 2


@pytest.mark.parametrize("pattern", ["Score: ({{ score }}", "Score", "{{ score }} {{ score }}"])
def test_a_bad_pattern_is_named(pattern: str) -> None:
    with pytest.raises(StageError, match="pattern"):
        parse_score("Score: 4", "stop", pattern, 0, 5)
