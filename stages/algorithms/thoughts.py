"""Thoughts that a model writes before its answer, and what is left for those who read the answer."""

from typing import NamedTuple

import polars as pl

MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"))
"""What opens and what closes a thought in answers. Judgements are read more widely (`plain_text.without_thoughts`): an
answer may have been asked for in other tags, such as `<reasoning>`."""
_OPENING = tuple(opening for opening, _ in MARKS)


class Thought(NamedTuple):
    """A text that begins with one thought."""

    opening: str
    body: str
    closing: str
    answer: str


def answer_of(text: str) -> str:
    """An answer as its reader sees it: what follows the last end of a thought; nothing, where a thought has no end."""
    end = max(text.rfind(closing) + len(closing) if closing in text else 0 for _, closing in MARKS)
    answer = text[end:].strip() if end else text
    return "" if answer.lstrip().startswith(_OPENING) else answer


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
