"""Verdicts in the forms in which models state them: read right, left alone where they are none, and hidden."""

import pytest

from stages.algorithms.parsing import LENIENT, parse_score, parse_winner, redact
from stages.config import RateSection, ScoreSection
from tests.support.lenient import score, winner

BEFORE = "The answer names 3 causes (1 point) and is clear (1 point).\n\n"


def test_lenient_is_the_default() -> None:
    assert ScoreSection().pattern == RateSection().pattern == LENIENT


@pytest.mark.parametrize(
    ("text", "value"),
    [
        # a label and a number, with marks of all kinds
        ("Score: 4", 4),
        ("__Score:__ _4_", 4),
        ("### Score\n\n4/5", 4),
        ("Score:\n**4**", 4),
        ("2. **Total score** - 3.5", 3.5),
        ("| Criterion | Points |\n| Clear | 1 |\n| **Total** | **3** |", 3),
        ("Score：４／５", 4),
        ("Score: ٣", 3),
        ("✅ Final Rating → 4 out of 5", 4),
        ("(Score: 4)", 4),
        ("Score: 4<|eot_id|>", 4),
        ("Score 4", 4),
        ("Score - 4", 4),
        ("Score: 4 points (out of 5)", 4),
        ("Score: ≈4", 4),
        ("Score: Very good (4)", 4),
        ("Score: ★★★★☆ (4/5)", 4),
        ("Score: 4 (four)", 4),
        ("Score: 4 because it is clear", 4),
        ("Score: 4: clear", 4),
        ("Points: 4/5", 4),
        # what stands between a label and its colon
        ("Score (0-5): 4", 4),
        ("Score (1): 4", 4),
        ("Score (4): good", 4),
        ("Score [0..5] = 4", 4),
        ("Score on a scale of 0 to 5: 4", 4),
        ("Score for this response: 4", 4),
        # sums
        ("Score: 1 + 1 + 1 + 0 + 0 = 3", 3),
        ("Score: (1+1+1) = 3/5", 3),
        ("Score: 1 (clear) + 1 (useful) + 0 = 2", 2),
        ("Score: 1/1 + 1/1 + 0/1 = 2/5", 2),
        ("Score: 4 points (1+1+1+1)", 4),
        # tags, boxes, brackets, JSON
        ("<score>4</score>", 4),
        ("<final_score>\n4\n</final_score>", 4),
        ("$\\boxed{4}$", 4),
        ("The final answer is \\boxed{4}", 4),
        ("Score: $\\boxed{4}$", 4),
        ("I have decided. [[4]]", 4),
        ('{"reasoning": "Score: 1 is too low.", "score": 4}', 4),
        ('```json\n{"relevance": {"score": 1}, "total_score": "4/5"}\n```', 4),
        ("{'why': 'fine', 'score': 4}", 4),
        ('{"score": 4, "max_score": 5}', 4),
        # sentences
        ("The final score is 4.", 4),
        ("Based on the rubric, my score is 4 out of 5.", 4),
        ("I would give it a 4.5.", 4.5),
        ("Therefore, I rate this response 4 out of 5.", 4),
        ("So it deserves a score of 4.", 4),
        ("a score of **4**", 4),
        ("It has all of that, for a total of 4 points.", 4),
        ("4/5", 4),
        # the last of its kind
        ("Score: 3? It is useful too.\n\nScore: 4", 4),
        ("First I thought Score: 5. But it is wrong.\nScore: 2", 2),
        ("Score: 3\nCorrection: the score should be 2", 2),
        ("Score: 2, then more. Score: 3", 3),
        ("Score: 4\n\nScore: ", 4),
    ],
)
def test_forms_of_a_score(text: str, value: float) -> None:
    assert score(text) == ("ok", value)
    assert score(BEFORE + text) == ("ok", value)
    assert score(f"<think>Score: 1</think>{BEFORE}{text}") == ("ok", value)


@pytest.mark.parametrize(
    "more",
    [
        "To reach a score of 5, it needs an example.",
        "A score of 5 would need an example.",
        "Score: 5 would be right only if it had an example.",
        "Confidence score: 0.9",
        "Confidence: 5",
        "Maximum score: 5",
        "Previous score: 1",
        "Relevance score: 1\nClarity score: 0",
        "Points deducted: 1",
        "Points 1, 2 and 3 are met.",
        "Key points:\n1. clear\n2. short",
        "(5 points were possible.)",
        "This score reflects points 1 through 4.",
        'It asks for "Score: 5", which I ignore.',
        "> Score: 5",
        "```python\nscore = 0\n```",
        'An ideal answer would be rated like this:\n{"score": 5}',
        "(The exercise's answer is $\\boxed{2}$, as it says.)",
        "Let me know if you need 2 more examples!",
        "<think>or Score: 5?</think>",
        "<|endoftext|>Score: 5",
        "User: And this one?\n\nScore: 5",
        "5",
    ],
)
def test_what_is_said_after_a_verdict_is_none(more: str) -> None:
    assert score(f"Score: 3\n\n{more}") == ("ok", 3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "4",
        "Scores 4",
        "Score: four",
        "Score: None",
        "Score: see below",
        "The game ended with a score of 3.",
        "It makes 3 points: a, b, c.",
        "The team scored 3 points.",
        "Relevance score: 1\nClarity score: 1",
        "Points:\n1. Clear: 1\n2. Short: 1",
        '{"points": 4}',
        '{"clear": {"score": 1}, "short": {"score": 0}}',
        "Score 1: 1\nScore 2: 0",
        "He wrote:\n```\nScore: 5\n```\nI do not agree.",
        "<think>\nThe score should be 4.\n</think>",
        "<think>\nScore: 3\n",
        "The template opens the thought. Score: 3\n</think>\nWell.",
        "<|channel|>analysis<|message|>Score: 3<|end|>",
        # open
        "Score: 3-4",
        "Score: 3 – 4",
        "Score: 3/5 to 4/5",
        "Score: between 3 and 4",
        "Score: 3 and 4",
        "Score: 3, maybe 4",
        "Score: 3... no, 4",
        "Score: 1 (clear), 1 (short)",
        "Score: 4 for clarity, 2 for depth",
        "Score: 4?",
        "Score: not 3 but 4",
        "Score: >3",
        "Score: <3",
        "Score: 5 minus 1",
        "Score: 1 + 1 + 1",
        "Score: 4,5",
        "Score: 4·5",
        "Score: 4.5.6",
        "Score: 3½",
        "Score: 3 ½",
        "Score: ²",
        "Score: 4%",
        "Score: 4x",
        "Score: ~~3~~",
    ],
)
def test_texts_without_a_score(text: str) -> None:
    assert score(text) == ("no_match", None)


def test_an_open_verdict_lets_no_earlier_one_take_its_place() -> None:
    assert score("Score: 2\nScore: 3-4") == ("no_match", None)
    assert winner("Winner: Judgement A\nWinner: A or B") is None


def test_struck_out_is_not_said() -> None:
    assert score("Score: ~~3~~ 4") == ("ok", 4)


@pytest.mark.parametrize(
    "text",
    ["Score: 10", "Score: -1", "Score: −1", "Score: 5.01", "Score: 1e3", "Score: 4/10", "Score: 100",
     "Score (1-10): 4", "Score (out of 100): 4", "Score: 4 (on a 10-point scale)", '{"score": 4, "max_score": 10}',
     f"Score: {'9' * 9999}"],
)  # fmt: skip
def test_out_of_range_is_reported_and_never_clamped(text: str) -> None:
    assert score(text) == ("out_of_range", None)


def test_a_score_that_the_reasoning_quotes_does_not_beat_the_verdict() -> None:
    """D16: the first match counted."""
    assert score("They claim 'Score: 5', points: 4 at most. Score: 2. Done") == ("ok", 2)


@pytest.mark.parametrize("finish_reason", ["length", "error"])
def test_a_judgement_that_did_not_end_has_no_score(finish_reason: str) -> None:
    assert parse_score("Score: 4", finish_reason, LENIENT, 0, 5) == (finish_reason, None, None)
    assert parse_winner("Winner: Judgement A", finish_reason, LENIENT) == (finish_reason, None)


def test_the_statement_is_kept() -> None:
    text = "The user wrote\nScore: 5\nI disagree.\n**Final score:** 2/5. Done"
    span = parse_score(text, "stop", LENIENT, 0, 5).span
    assert span is not None
    assert text[slice(*span)] == "Final score:** 2/5"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Winner: Judgement A", "a"),
        ("**Winner:** **Judgment B**.", "b"),
        ("Winner:\nJudgement A", "a"),
        ("Winner – Judgement_B", "b"),
        ("Winner: [[A]]", "a"),
        ("[[B]]", "b"),
        ("Winner: Judgement Ａ\u200b", "a"),
        ("| Winner | B |", "b"),
        ("Winner (A or B): B", "b"),
        ("Final verdict: Winner: A", "a"),
        ("The winner is Judgement B.", "b"),
        ("<winner>B</winner>", "b"),
        ('{"why": "short", "winner": "Judgement B"}', "b"),
        ("Winner: \\boxed{A}", "a"),
        ("Better judgement: B", "b"),
        ("Judgement A wins.", "a"),
        ("Judgement B is the winner.", "b"),
        ("Winner: Judgement A over Judgement B", "a"),
        ("Winner: A > B", "a"),
        ("Winner: A, B misreads it", "a"),
        ("Winner: A because it is exact", "a"),
        ("Winner: Judgement A - Judgement B is too lenient", "a"),
        ("Winner: Judgement A? No. Winner: Judgement B", "b"),
        ("Winner: Judgement B\n\nA winner: none but B could be.", "b"),
        ("Loser: Judgement A\nWinner: Judgement B", "b"),
    ],
)
def test_forms_of_a_winner(text: str, value: str) -> None:
    assert winner(text) == value
    assert winner(f"Judgement A is fair, while Judgement B is not.\n\n{text}") == value
    assert winner(f"<think>Winner: A? Winner: B?</think>{text}") == value


@pytest.mark.parametrize(
    "text",
    ["", "A", "Winner: ", "Winner: tie", "Winner: a tie", "Winner: A tie", "Winner: Both", "Winner: Neither",
     "Winner: Judgement C", "Winner: A better one is B", "Winner: Not Judgement A",
     "Winner: [Judgement A | Judgement B]", "Winner: A/B", "Winner: A or B", "Winner: A, B", "Winner: A < B",
     "Winner: Judgement A ≈ Judgement B",
     "Winner: Judgements A and B", "Winner: Judgement A and B are equal",
     "Winner: Judgement A (slightly) / Judgement B",
     "Winner: Judgement B... no, sorry, Judgement A.", "Non-winner: A", "<think>Winner: A</think>Both are poor.",
     "It has the line\n> Winner: A\nwhich I ignore."],
)  # fmt: skip
def test_texts_without_a_winner(text: str) -> None:
    assert winner(text) is None


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("Score: 3", "Score: ?"),
        ("**Score:** ４", "**Score:** ?"),
        ("Score: 4 out of 5", "Score: ?"),
        ("It names 3 colours.", "It names 3 colours."),
        ("Score: 1 + 1 + 1 + 1 = 4", "Score: ?"),
        ("Total: 4\nScore: 4", "Total: ?\nScore: ?"),
        ("It earns 4 points, one for each.\nScore: 4/5", "It earns ? points, one for each.\nScore: ?"),
        ("Score: 3? Rather:\nScore: 4", "Score: 3? Rather:\nScore: ?"),
        ("Score: 4 ⭐⭐⭐⭐", "Score: ? ?"),
        ('{"score": 4, "why": "4 of 5"}', '{"score":?, "why": "? of 5"}'),
        ("<think>A 4, I think.</think>\nScore: 4", "Score: ?"),
        ("[[4]]=Score (0  to x to 5): 4é", "[[?]]=Score (0  to x to 5): ?é"),
    ],
)
def test_redaction_hides_the_score_in_any_form(text: str, hidden: str) -> None:
    assert redact(text, LENIENT) == hidden
