"""The grammar of scores and winners, against the forms that models write and against arbitrary text."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.algorithms.parsing import REDACTED, parse_score, parse_winner, redact
from stages.config import RateSection, ScoreSection
from stages.errors import StageError

SCORE = ScoreSection().pattern
WINNER = RateSection().pattern
FRAGMENTS = st.sampled_from(
    ["Score", ": ", "points ", "4", "４", "²", "/5", " out of ", "-", "−", ".", ",", "e", "**", "<"]
)
TEXTS = st.one_of(st.text(), st.lists(FRAGMENTS).map("".join), st.text(st.characters(categories=["Cs", "Nd", "P"])))


def score(text: str) -> tuple[str, float | None]:
    return parse_score(text, "stop", SCORE, 0, 5)[:2]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Score: 4", 4),
        ("Score:4", 4),
        ("Score:  4", 4),
        ("Score: 4.", 4),
        ("Score: 4.5", 4.5),
        ("Score: 4.5.", 4.5),
        ("**Score:** 4", 4),
        ("**Score: 4**", 4),
        ("Score: <4>", 4),
        ("Score: 4/5", 4),
        ("Score: 4.5 / 5", 4.5),
        ("Score: 4 out of 5", 4),
        ("Score: ４", 4),
        ("Score: ４．５／５", 4.5),
        ("Score: ٣", 3),
        ("Score-4", 4),
        ("Score - 4", 4),
        ("score: 0", 0),
        ("Points: 3 points", 3),
    ],
)
def test_forms_of_a_score(text: str, value: float) -> None:
    assert score(text) == ("ok", value)


@pytest.mark.parametrize(
    "text",
    ["Score: 10", "Score: -1", "Score: −1", "Score: 5.01", "Score: 45", "Score: 1e3", "Score: 4/10", "Score: 80%"],
)
def test_out_of_range_is_reported_and_never_clamped(text: str) -> None:
    assert score(text) == ("out_of_range", None)


@pytest.mark.parametrize(
    "text", ["", "4", "Score: four", "Scores 4", "Score: x", "Score: 4,5", "Score: 4.5.6", "Score: ²"]
)
def test_texts_without_a_score(text: str) -> None:
    assert score(text) == ("no_match", None)


def test_the_last_score_counts_and_its_span_is_kept() -> None:
    text = "The user wrote 'Score: 5'. I disagree. Score: 2. Done"
    status, value, span = parse_score(text, "stop", SCORE, 0, 5)
    assert (status, value) == ("ok", 2)
    assert span is not None
    assert text[slice(*span)] == "Score: 2"


def test_a_last_score_out_of_range_hides_no_earlier_one_behind_it() -> None:
    assert score("Score: 3 ... Score: 9") == ("out_of_range", None)


@pytest.mark.parametrize("finish_reason", ["length", "error"])
def test_a_judgement_that_did_not_end_has_no_score(finish_reason: str) -> None:
    assert parse_score("Score: 4", finish_reason, SCORE, 0, 5) == (finish_reason, None, None)
    assert parse_winner("Winner: Judgement A", finish_reason, WINNER) == (finish_reason, None)


def test_another_scale() -> None:
    assert parse_score("Note: 7/10", "stop", "Note: {{ score }}", 0, 10)[:2] == ("ok", 7)
    assert parse_score("Note: 4/5", "stop", "Note: {{ score }}", 0, 10)[:2] == ("out_of_range", None)


def test_a_pattern_may_end_in_its_own_scale() -> None:
    assert parse_score("[4/5]", "stop", r"\[{{ score }}/5\]", 0, 5)[:2] == ("ok", 4)


@settings(deadline=None)
@given(TEXTS)
def test_no_text_raises_and_no_score_leaves_the_range(text: str) -> None:
    status, value, span = parse_score(text, "stop", SCORE, 0, 5)
    assert status in {"ok", "no_match", "out_of_range"}
    assert (value is not None) == (status == "ok")
    assert (span is None) == (status == "no_match")
    assert value is None or 0 <= value <= 5
    assert parse_winner(text, "stop", WINNER).status in {"ok", "no_match"}


@settings(deadline=None)
@given(TEXTS, st.integers(0, 50))
def test_what_comes_before_the_verdict_does_not_count(text: str, tenths: int) -> None:
    assert score(f"{text}\nIn the end. Score: {tenths / 10}") == ("ok", tenths / 10)


def test_a_very_long_number_is_out_of_range_not_an_error() -> None:
    assert score("Score: " + "9" * 100_000) == ("out_of_range", None)


@pytest.mark.parametrize(
    ("text", "winner"),
    [
        ("Winner: Judgement A", "a"),
        ("Winner: Judgment B", "b"),
        ("Winner: Judgement A.", "a"),
        ("Winner: [Judgement B]", "b"),
        ("**Winner: Judgement A**", "a"),
        ("**Winner:** Judgement B", "b"),
        ("winner: judgement b", "b"),
        ("Winner: A", "a"),
        ("Winner: Judgement A because it follows the rubric", "a"),
        ("Winner: Judgement B is better. No: Winner: Judgement A!", "a"),
    ],
)
def test_forms_of_a_winner(text: str, winner: str) -> None:
    assert parse_winner(text, "stop", WINNER) == ("ok", winner)


@pytest.mark.parametrize("text", ["", "A", "Winner: tie", "Winner: a tie", "Winner: Both", "Winner: Judgement C"])
def test_texts_without_a_winner(text: str) -> None:
    assert parse_winner(text, "stop", WINNER) == ("no_match", None)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Score: 3", f"Score: {REDACTED}"),
        ("Score: 4.5/5. Good", f"Score: {REDACTED}. Good"),
        ("**Score:** ４", f"**Score:** {REDACTED}"),
        ("Score: 4 out of 5", f"Score: {REDACTED}"),
        ("Score: 2, then Points: 3", f"Score: {REDACTED}, then Points: {REDACTED}"),
        ("It names 3 colours.", "It names 3 colours."),
    ],
)
def test_redaction_takes_the_number_and_nothing_else(text: str, hidden: str) -> None:
    assert redact(text, SCORE) == hidden


@settings(deadline=None)
@given(TEXTS, st.integers(0, 5), TEXTS)
def test_redaction_depends_on_no_digit_of_the_score(before: str, number: int, after: str) -> None:
    text = f"{before}\nAll in all. Score: {{}}.\n{after}"
    assert redact(text.replace("{}", str(number)), SCORE) == redact(text.replace("{}", "1"), SCORE)


@pytest.mark.parametrize("pattern", ["Score: ({{ score }}", "Score", "{{ score }} {{ score }}"])
def test_a_bad_pattern_is_named(pattern: str) -> None:
    with pytest.raises(StageError, match="pattern"):
        parse_score("Score: 4", "stop", pattern, 0, 5)
