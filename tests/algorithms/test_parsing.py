"""The grammar of scores and winners, against the forms that models write and against arbitrary text."""

import importlib.util
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.algorithms.parsing import (
    REDACTED,
    SCORE_GRAMMARS,
    last_match,
    parse_score,
    parse_winner,
    redact,
    score_grammar,
    search_from_start,
    winner_grammar,
)
from stages.config import RateSection, ScoreSection
from stages.contracts.errors import StageError

SCORE = ScoreSection().pattern
NAMED = tuple(SCORE_GRAMMARS)
WINNER = RateSection().pattern
SCORE_FRAGMENTS = [
    *("Score", ": ", "points ", "4", "４", "²", "/5", " out of ", "-", "−", ".", ",", "e", "**", "<", ">", "\n"),
    *(" (", "0-5", ")", "]", " to ", " or ", "="),
]
WINNER_FRAGMENTS = [
    *("Winner", "wınner", "ſcore", "poİnts", "Judgement ", "judgment ", "A", "b", " a tie", "]", " | ", " and "),
]
FRAGMENTS = st.sampled_from(SCORE_FRAGMENTS + WINNER_FRAGMENTS)
TEXTS = st.one_of(st.text(), st.lists(FRAGMENTS).map("".join), st.text(st.characters(categories=["Cs", "Nd", "P"])))


def score(text: str, pattern: str = SCORE) -> tuple[str, float | None]:
    return parse_score(text, "stop", pattern, 0, 5)[:2]


@pytest.mark.parametrize("pattern", NAMED)
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
        ("score: 0", 0),
        ("Score : 4", 4),
        ("Score：4", 4),
        ("**Score**: **4**", 4),
        ("__Score:__ 4", 4),
        ("__Score__: _4_", 4),
        ("_Score: 4_", 4),
        ("__Score (0-5):__ 4/5", 4),
        ("Score: <4>.", 4),
        ("Score: [4]", 4),
        ("Score: 4...", 4),
        ("  Score: 4  \r\nDone.", 4),
        ("Score: 4\nOut of 10 readers, nine would agree.", 4),
        ("Score: 4\n- 5 examples would have helped.", 4),
        ("Score (0-5): 4", 4),
        ("Score (0 to 5): 4", 4),
        ("**Score (0–5):** 3", 3),
        ("Score (1): 4", 4),
        ("Score [0-5]: <4>", 4),
        ("Score（0〜5）：４／５", 4),
    ],
)
def test_forms_of_a_score_on_a_line_of_its_own(text: str, value: float, pattern: str) -> None:
    assert score(text, pattern) == ("ok", value)
    assert score(f"It is fair.\n{text}", pattern) == ("ok", value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Score-4", 4),
        ("Score - 4", 4),
        ("**Score** = 4/5", 4),
        ("Points: 3 points", 3),
        ("So I give it a score of... Score: 3, all in all", 3),
        ("Score:\n4", 4),
        ("> Score: 4", 4),
        ('{"total_score": 4}', 4),
        ("Score [0-5] = 3", 3),
        ("| Score (0-5) | 3 |", 3),
        ("Score (4)", 4),
        ("Score (4): good", 4),
        ("Score (4):\n1. It is on topic.", 4),
        ("Score: [4] 1. It is on topic.", 4),
        ("Score: 4/5 - 1 point is missing", 4),
        ("Score (this remark is longer than that): 2. Score (3)", 3),
    ],
)
def test_the_strict_grammar_leaves_to_the_lenient_one_what_is_no_line_of_its_own(text: str, value: float) -> None:
    assert score(text, "lenient") == ("ok", value)
    assert score(text, "strict") == ("no_match", None)


@pytest.mark.parametrize("pattern", NAMED)
@pytest.mark.parametrize(
    "text",
    [
        "Score: 10",
        "Score: -1",
        "Score: −1",
        "__Score:__ -1",
        "__Score:__-1",
        "Score: 5.01",
        "Score: 45",
        "Score: 1e3",
        "Score: 4/10",
        "Score: 80",
    ],
)
def test_out_of_range_is_reported_and_never_clamped(text: str, pattern: str) -> None:
    assert score(text, pattern) == ("out_of_range", None)


@pytest.mark.parametrize("pattern", NAMED)
@pytest.mark.parametrize(
    "text", ["", "4", "Score: four", "Scores 4", "Score: x", "Score: 4,5", "Score: 4.5.6", "Score: ²"]
)
def test_texts_without_a_score(text: str, pattern: str) -> None:
    assert score(text, pattern) == ("no_match", None)


OPEN_SCORES = [
    "Score: 3-4",
    "Score: 3 – 4",
    "Score: 3—4",
    "Score: 3 to 4",
    "Score: 4 or 5",
    "Score: 3 or 4 or 5",
    "Score: 3-4/5",
    "Score: 3/5 to 4/5",
    "Score: <3> or <4>",
    "**Score:** **3** - **4**",
    "__Score:__ __3__ - __4__",
    "Score (0-5): 3-4",
]


@pytest.mark.parametrize("text", OPEN_SCORES)
@pytest.mark.parametrize("pattern", NAMED)
def test_a_range_is_no_score_and_no_earlier_score_takes_its_place(text: str, pattern: str) -> None:
    assert score(text, pattern) == ("no_match", None)
    assert score(f"Score: 2\n{text}", pattern) == ("no_match", None)
    assert score(f"{text}\nScore: 2", pattern) == ("ok", 2)


@pytest.mark.parametrize("text", OPEN_SCORES)
def test_redaction_hides_the_whole_of_a_range(text: str) -> None:
    assert not any(character.isdigit() for character in redact(text, "lenient"))
    assert "4" not in redact(text, "strict")


@given(
    before=TEXTS,
    ends=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    joint=st.sampled_from(["-", " – ", "—", " to ", " or "]),
)
def test_no_range_is_read_and_none_is_left_to_see(before: str, ends: tuple[int, int], joint: str) -> None:
    text = f"{before}\nScore (0-5): {ends[0]}{joint}{ends[1]}"
    assert score(text) == ("no_match", None)
    assert redact(text, SCORE).endswith(f"\nScore ({REDACTED}): {REDACTED}")


def test_a_pattern_may_hold_a_range_of_its_own() -> None:
    assert score("[4-5]", r"\[{{ score }}-5\]") == ("ok", 4)
    assert score("[4-5]", r"\[{{ score }}\]") == ("no_match", None)


@pytest.mark.parametrize("pattern", NAMED)
def test_the_last_score_counts_and_its_span_is_kept(pattern: str) -> None:
    text = "The user wrote\nScore: 5\nI disagree.\nScore: 2\nDone"
    status, value, span = parse_score(text, "stop", pattern, 0, 5)
    assert (status, value) == ("ok", 2)
    assert span is not None
    assert text[slice(*span)] == "Score: 2"


def test_a_score_that_the_reasoning_quotes_does_not_beat_the_verdict() -> None:
    """D16: the first match counted."""
    assert score("They claim 'Score: 5', points: 4 at most. Score: 2. Done") == ("ok", 2)
    assert score("I would say Score: 5.\nScore: 2\nThey claim Score: 4, which is wrong.", "strict") == ("ok", 2)


def test_a_last_score_out_of_range_hides_no_earlier_one_behind_it() -> None:
    assert score("Score: 3 ... Score: 9") == ("out_of_range", None)
    assert score("Score: 3 ... Score: 80%") == ("out_of_range", None)


@pytest.mark.parametrize("finish_reason", ["length", "error"])
def test_a_judgement_that_did_not_end_has_no_score(finish_reason: str) -> None:
    assert parse_score("Score: 4", finish_reason, SCORE, 0, 5) == (finish_reason, None, None)
    assert parse_winner("Winner: Judgement A", finish_reason, WINNER) == (finish_reason, None)


def test_another_scale() -> None:
    assert parse_score("Note: 7/10", "stop", "Note: {{ score }}", 0, 10)[:2] == ("ok", 7)
    assert parse_score("Note: 4/5", "stop", "Note: {{ score }}", 0, 10)[:2] == ("out_of_range", None)


def test_a_pattern_may_end_in_its_own_scale() -> None:
    assert parse_score("[4/5]", "stop", r"\[{{ score }}/5\]", 0, 5)[:2] == ("ok", 4)


def test_a_pattern_whose_number_may_be_left_out_takes_the_last_number() -> None:
    assert score("4, then none", "(?:none|{{ score }})") == ("ok", 4)
    assert score("none", "(?:none|{{ score }})") == ("no_match", None)
    assert redact("4, then none", "(?:none|{{ score }})") == f"{REDACTED}, then none"


@given(TEXTS, st.sampled_from(NAMED))
def test_no_text_raises_and_no_score_leaves_the_range(text: str, pattern: str) -> None:
    status, value, span = parse_score(text, "stop", pattern, 0, 5)
    assert status in {"ok", "no_match", "out_of_range"}
    assert (value is not None) == (status == "ok")
    assert (span is None) == (status == "no_match")
    assert value is None or 0 <= value <= 5
    assert parse_winner(text, "stop", WINNER).status in {"ok", "no_match"}


@given(TEXTS)
def test_the_search_from_the_end_finds_what_a_search_from_the_start_finds_last(text: str) -> None:
    grammars = [(score_grammar(name), "score", name) for name in NAMED] + [(winner_grammar(WINNER), "winner", WINNER)]
    for grammar, slot, pattern in grammars:
        found, expected = last_match(grammar, slot, text, pattern), search_from_start(grammar, slot, text)
        assert (found and found.span()) == (expected and expected.span())
        assert (found and found.groups()) == (expected and expected.groups())


@given(TEXTS)
def test_what_is_strict_is_lenient(text: str) -> None:
    for strict in score_grammar("strict").finditer(text):
        lenient = score_grammar("lenient").search(text, strict.start())
        assert lenient is not None
        assert lenient.span("score") == strict.span("score")


@given(TEXTS, st.integers(0, 50), st.sampled_from(NAMED))
def test_what_comes_before_the_verdict_does_not_count(text: str, tenths: int, pattern: str) -> None:
    assert score(f"{text}\nIn the end.\nScore: {tenths / 10}", pattern) == ("ok", tenths / 10)


def test_a_very_long_number_is_out_of_range_not_an_error() -> None:
    assert score("Score: " + "9" * 100_000) == ("out_of_range", None)


@pytest.mark.parametrize(
    "part", ["Score (", "Score: 4 ", "Score: 4 or ", "4-", " ", "*", "Score(4): ", "Score 4/5 to "]
)
@pytest.mark.parametrize("pattern", NAMED)
def test_the_time_of_a_search_grows_with_the_text_and_not_with_its_square(part: str, pattern: str) -> None:
    grammar, text = score_grammar(pattern), "Score: 4" + part * 50_000
    began = time.process_time()
    assert search_from_start(grammar, "score", text + "Score: 4-") or pattern == "strict"
    assert time.process_time() - began < 2


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
        ("Winner: [[A]]", "a"),
        ("**Winner:** **Judgment B**.", "b"),
        ("__Winner: Judgement A__", "a"),
        ("__Winner:__ _Judgement B_.", "b"),
        ("Winner: Judgement __A__ because it is exact", "a"),
        ("Winner: Judgement **A** because it is exact", "a"),
        ("Winner: Judgement: A because it is exact", "a"),
        ("Winner: Judgement A because it follows the rubric", "a"),
        ("Winner: Judgement B is better. No: Winner: Judgement A!", "a"),
        ("Winner: Judgement A over Judgement B", "a"),
        ("Winner: Judgement A, as Judgement B miscounts", "a"),
        ("Winner: Judgement A. Judgement B is worse.", "a"),
        ("Winner: Judgement B\nA is wrong, and B is right.", "b"),
        ("Winner: Judgement A and a half", "a"),
    ],
)
def test_forms_of_a_winner(text: str, winner: str) -> None:
    assert parse_winner(text, "stop", WINNER) == ("ok", winner)


@pytest.mark.parametrize("text", ["", "A", "Winner: tie", "Winner: a tie", "Winner: Both", "Winner: Judgement C"])
def test_texts_without_a_winner(text: str) -> None:
    assert parse_winner(text, "stop", WINNER) == ("no_match", None)


@pytest.mark.parametrize(
    "text",
    [
        "Winner: [Judgement A | Judgement B]",
        "Winner: A/B",
        "Winner: A or B",
        "Winner: B and/or A",
        "Winner: Judgement A and Judgement B",
        "Winner: Judgement A or B",
        "Winner: Judgement A or Judgement B?",
        "Winner: Judgement A = Judgement B",
        "**Winner:** Judgement **A** vs. Judgement **B**",
        "__Winner:__ Judgement __A__ vs. Judgement __B__",
        "Winner: [[A]] & [[B]]",
    ],
)
def test_naming_both_is_no_winner_and_no_earlier_winner_takes_its_place(text: str) -> None:
    assert parse_winner(text, "stop", WINNER) == ("no_match", None)
    assert parse_winner(f"Winner: Judgement A\n{text}", "stop", WINNER) == ("no_match", None)
    assert parse_winner(f"{text}\nWinner: Judgement B", "stop", WINNER) == ("ok", "b")


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Score: 3", f"Score: {REDACTED}"),
        ("Score: 4.5/5. Good", f"Score: {REDACTED}. Good"),
        ("**Score:** ４", f"**Score:** {REDACTED}"),
        ("__Score:__ _4_", f"__Score:__ _{REDACTED}_"),
        ("Score: 4 out of 5", f"Score: {REDACTED}"),
        ("Score: 2, then Points: 3", f"Score: {REDACTED}, then Points: {REDACTED}"),
        ("It names 3 colours.", "It names 3 colours."),
        ("Score (0-5): 4", f"Score ({REDACTED}): {REDACTED}"),
        ("Score (1): 4", f"Score ({REDACTED}): {REDACTED}"),
        ("Score: 3-4/5, fair", f"Score: {REDACTED}, fair"),
        ("Score: 3/5 or 4/5", f"Score: {REDACTED}"),
        ("Score: 4/5 - 1 is missing", f"Score: {REDACTED} - 1 is missing"),
        ("Score 4score 5", f"Score {REDACTED}score {REDACTED}"),
    ],
)
def test_redaction_takes_the_number_and_nothing_else(text: str, hidden: str) -> None:
    assert redact(text, SCORE) == hidden


@pytest.mark.parametrize("pattern", NAMED)
@given(before=TEXTS, number=st.integers(0, 5), after=TEXTS)
def test_redaction_depends_on_no_digit_of_the_score(pattern: str, before: str, number: int, after: str) -> None:
    hidden = {redact(f"{before}\nAll in all.\nScore: {digit}\n{after}", pattern) for digit in (number, 1)}
    assert len(hidden) == 1


@given(TEXTS, st.sampled_from([*NAMED, "{{ score }}", r"(?i)score\W*{{ score }}"]))
def test_redaction_leaves_no_score_to_parse(text: str, pattern: str) -> None:
    assert search_from_start(score_grammar(pattern), "score", redact(text, pattern)) is None


@pytest.mark.parametrize("pattern", ["Score: ({{ score }}", "Score", "{{ score }} {{ score }}"])
def test_a_bad_pattern_is_named(pattern: str) -> None:
    with pytest.raises(StageError, match="pattern"):
        parse_score("Score: 4", "stop", pattern, 0, 5)


def test_a_short_fuzzing_run_breaks_no_promise() -> None:
    spec = importlib.util.spec_from_file_location("fuzz", Path(__file__).parents[1] / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    ends = fuzz.fuzz(inputs=12_000, seed=1)
    assert ends.total() == 12_000
    for target in ("score", "own pattern", "winner", "line", "record", "ranked", "tree"):
        assert ends[f"{target}: ok"] > 50, target
