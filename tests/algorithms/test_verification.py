"""Responses against the instructions of their prompts, strictly and loosely, on cases worked out by hand."""

import json
from typing import Any

import polars as pl
import pytest

from stages.algorithms.verification import followed_parts, loosely, loosened, outcomes


def response(text: str, *checks: tuple[str, dict[str, Any]], finish_reason: str = "stop") -> dict[str, Any]:
    listed = [{"id": name, "arguments": arguments} for name, arguments in checks]
    turn = [{"role": "user", "content": "Say it."}]
    return {"text": text, "finish_reason": finish_reason, "messages": turn, "checks": json.dumps(listed)}


LOWER = ("change_case:english_lowercase", {})
QUOTED = ("startend:quotation", {})
ONE_WORD = ("length_constraints:number_words", {"num_words": 2, "relation": "less than"})


def test_the_variants_are_those_of_ifeval() -> None:
    assert loosened("Sure:\n*one*\ntwo\nBye") == [
        "*one*\ntwo\nBye", "Sure:\n*one*\ntwo", "*one*\ntwo",
        "Sure:\none\ntwo\nBye", "one\ntwo\nBye", "Sure:\none\ntwo", "one\ntwo",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "check", "strict", "loose"),
    [
        ('"yes"', QUOTED, True, True),
        ('Here it is:\n"yes"', QUOTED, False, True),
        ('"yes"\nI hope that helps.', QUOTED, False, True),
        ('Here:\n"yes"\nBye', QUOTED, False, True),
        ('*"yes"*', QUOTED, False, True),
        ("yes", QUOTED, False, False),
        # Of one line, without its first line, nothing is left: that is no answer which is short enough.
        ("far too long", ONE_WORD, False, False),
    ],
)
def test_loose_forgives_an_opening_a_closing_and_asterisks(text: str, check: Any, strict: bool, loose: bool) -> None:
    (found,) = outcomes(response(text, check))
    assert (found.passed, loosely(response(text, check))) == (strict, [loose])


def test_nothing_follows_nothing() -> None:
    for empty in (response("", LOWER, ONE_WORD), response("words", LOWER, ONE_WORD, finish_reason="error")):
        assert [(one.passed, one.detail) for one in outcomes(empty)] == [(False, "there is no response")] * 2
        assert loosely(empty) == [False, False]


def test_a_check_that_cannot_be_carried_out_is_failed_and_says_why() -> None:
    (found,) = outcomes(response("words", ("keywords:unheard_of", {})))
    assert not found.passed
    assert str(found.detail).startswith("ValueError: unknown instruction 'keywords:unheard_of'")


def test_what_a_prompt_adds() -> None:
    """Two samples of one prompt: the first follows both instructions, the second one of them, loosely both."""
    passed = [
        (0, 0, "a:x", True, True),
        (0, 1, "a:y", True, True),
        (1, 0, "a:x", True, True),
        (1, 1, "a:y", False, True),
    ]
    names = ["sample", "check", "instruction", "strict", "loose"]
    rows = pl.DataFrame(passed, schema=names, orient="row").with_columns(
        prompt_id=pl.lit("p"), decoding=pl.lit("sample")
    )
    parts = {metric: part[:2] for metric, part in followed_parts(rows, "sample")["p"].items()}
    assert parts == {
        "prompt_strict": (1, 2), "prompt_loose": (2, 2), "instruction_strict": (3, 4), "instruction_loose": (4, 4),
        "follows:a:x": (2, 2), "follows:a:y": (1, 2),
    }  # fmt: skip
    assert followed_parts(rows, "greedy") == {}
    greedy = rows.filter(sample=0).with_columns(decoding=pl.lit("greedy"))
    assert set(followed_parts(greedy, "greedy")["p"]) == {
        "prompt_strict_greedy", "prompt_loose_greedy", "instruction_strict_greedy", "instruction_loose_greedy",
    }  # fmt: skip
