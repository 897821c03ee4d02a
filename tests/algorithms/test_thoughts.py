"""Thoughts before an answer: what is one, and what its reader sees."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.algorithms.thoughts import Thought, answer_of, leading_thought, opened_thought

pieces = st.lists(st.sampled_from(["<think>", "</think>", "[THINK]", "[/THINK]", "a", " ", "\n", "<"]), max_size=8)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Paris.", "Paris."),
        (" Paris. ", " Paris. "),
        ("<think>\nFrance?\n</think>\n\nParis.", "Paris."),
        ("France?\n</think>\n\nParis.", "Paris."),
        ("<think>a</think>\n<think>b</think>c", "c"),
        ("<think>a</think>b<think>c</think>d", "b<think>c</think>d"),
        ("<think>a</think>Write </think> after it.", "Write </think> after it."),
        ("[THINK]France?[/THINK]Paris.", "Paris."),
        ("<think>\nFrance?", ""),
        ("<think>a</think>\n<think>b", ""),
        ("<think>a</think>", ""),
        ("Write <think> before a thought.", "Write <think> before a thought."),
        ("Put it between <think> and </think>.", "Put it between <think> and </think>."),
        ("<reasoning>a</reasoning>b", "<reasoning>a</reasoning>b"),
    ],
)
def test_the_reader_sees_what_follows_the_last_thought(text: str, answer: str) -> None:
    assert answer_of(text) == answer


@given(pieces.map("".join))
def test_nothing_of_a_thought_is_seen_and_nothing_else_is_lost(text: str) -> None:
    answer = answer_of(text)
    assert text.rstrip().endswith(answer.rstrip())
    assert not answer.lstrip().startswith(("<think>", "[THINK]"))
    if not any(mark in text for mark in ("<think>", "</think>", "[THINK]", "[/THINK]")):
        assert answer == text


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("<think>a</think>b", Thought("<think>", "a", "</think>", "b")),
        ("\n<think></think>\n\nb</think>", Thought("<think>", "", "</think>", "\n\nb</think>")),
        ("[THINK]a[/THINK]b", Thought("[THINK]", "a", "[/THINK]", "b")),
        ("a <think>b</think>", None),
        ("<think>a", None),
        ("<think>a<think>b</think>c", None),
        ("a</think>b", None),
    ],
)
def test_a_thought_is_one_that_begins_the_text_and_is_closed(text: str, thought: Thought | None) -> None:
    assert leading_thought(text) == thought


def test_what_a_text_leaves_open() -> None:
    assert opened_thought("<|assistant|><think>\n") == "<think>\n"
    assert opened_thought("<|assistant|><think>\n\n</think>\n\n") == ""
    assert opened_thought("<|assistant|>") == ""
