"""Thoughts that a model writes before its answer, and what is left for those who read the answer."""

from typing import NamedTuple

import polars as pl

MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""What opens and what closes a thought in answers. Judgements are read more widely (`plain_text.without_thoughts`): an
answer may have been asked for in other tags, such as `<reasoning>`."""


class Thought(NamedTuple):
    """A text that begins with one thought."""

    opening: str
    body: str
    closing: str
    answer: str


def answer_of(text: str) -> str:
    """An answer as its reader sees it: without the thoughts that it begins with; nothing, where one of them has no end.

    An end that nothing opened is that of a thought which began before the text. Marks further on are the answer's own.
    """
    end = thoughts_end(text)
    return text[end:].strip() if end else text


def thoughts_end(text: str) -> int:
    """Where the thoughts end that a text begins with, or began within, in characters; 0 without thoughts."""
    rest = text
    for opening, closing in MARKS:
        before, closed, after = rest.partition(closing)
        if closed and opening not in before:
            rest = after
            break
    while begun := next((marks for marks in MARKS if rest.lstrip().startswith(marks[0])), None):
        rest = rest.partition(begun[1])[2]
    return len(text) - len(rest)


def answers_of(texts: pl.Series) -> pl.Series:
    """`answer_of` each text."""
    return pl.Series(texts.name, [answer_of(text) for text in texts], dtype=pl.String)


def leading_thought(text: str) -> Thought | None:
    """The one well-formed thought that a text begins with; None if it begins otherwise, or the thought is not closed or
    holds another beginning."""
    begun = text.lstrip()
    for opening, closing in MARKS:
        body, closed, answer = begun.removeprefix(opening).partition(closing)
        if begun.startswith(opening) and closed and opening not in body:
            return Thought(opening, body, closing, answer)
    return None


def opened_thought(text: str) -> str:
    """The end of a text that leaves a thought open, from its mark on; empty if it leaves none open."""
    for opening, closing in MARKS:
        if text.rfind(opening) > text.rfind(closing):
            return text[text.rfind(opening) :]
    return ""
