"""The grammar of verdicts: scores in judgements, winners in meta-judgements, and scores hidden from a meta-judge.

A pattern is a regular expression with one placeholder, `{{ score }}` or `{{ winner }}`. The last match in a text is
its verdict: what a text quotes or weighs on the way to its conclusion does not count.
"""

import re
import unicodedata
from functools import cache
from typing import NamedTuple

from stages.errors import StageError

REDACTED = "?"

# A sign counts only where it does not join words ("Score-4" is 4). Possessive quantifiers keep a number whole, so
# that no pattern can read 45 as 4, and keep matching linear. `float` judges what the group caught ("4,5" is none).
_NUMBER = r"(?<!\W[-−])(?P<score>(?:(?<!\w)[-−])?\d++(?:[.．,，]\d++)*+(?:[eE][-+]?\d++)?+)"
_SCALE = r"(?:\s*+(?:[/／]|out\s+of\b)\s*+(?P<scale>\d++(?:[.．]\d++)?+))?"
# "Winner: a tie" names nobody: an `a` with a word behind it is an article, unless "judgement" stands before it.
_WINNER = r"(?P<winner>[Bb]|(?<=ment\W)[Aa]|[Aa](?![ \t]+\w))(?!\w)"


class Score(NamedTuple):
    """A parsed judgement: `value` is null unless `status` is `ok`; `span` is the match, in characters."""

    status: str
    value: float | None
    span: tuple[int, int] | None


class Winner(NamedTuple):
    """A parsed meta-judgement: `value` is `a` (shown first) or `b`, null unless `status` is `ok`."""

    status: str
    value: str | None


@cache
def score_grammar(pattern: str) -> re.Pattern[str]:
    """The regular expression of a score pattern, with groups `score` and `scale` (the 5 of `4/5`).

    Raises StageError if the pattern is not a regular expression with the placeholder `{{ score }}`.
    """
    return _compile(pattern, "{{ score }}", _NUMBER + _SCALE)


@cache
def winner_grammar(pattern: str) -> re.Pattern[str]:
    """The regular expression of a winner pattern, with the group `winner`; raises StageError like `score_grammar`."""
    return _compile(pattern, "{{ winner }}", _WINNER)


def parse_score(text: str, finish_reason: str, pattern: str, low: float, high: float) -> Score:
    """The last score in a judgement; total over all texts.

    Status: `ok`; `no_match`; `out_of_range` (outside [low, high], or given on a scale that does not end at `high`,
    never clamped); `length` or `error` where generation ended so, whatever the text holds.
    """
    if finish_reason != "stop":
        return Score(finish_reason, None, None)
    match = _last(score_grammar(pattern), text)
    value = None if match is None else _number(match["score"])
    if match is None or value is None:
        return Score("no_match", None, None)
    scale = _number(match["scale"]) if match["scale"] else high
    if not low <= value <= high or scale != high:
        return Score("out_of_range", None, match.span())
    return Score("ok", value, match.span())


def parse_winner(text: str, finish_reason: str, pattern: str) -> Winner:
    """The last winner in a meta-judgement. Status: `ok`, `no_match`, or `length` / `error` as in `parse_score`."""
    if finish_reason != "stop":
        return Winner(finish_reason, None)
    match = _last(winner_grammar(pattern), text)
    return Winner("no_match", None) if match is None else Winner("ok", match["winner"].lower())


def redact(text: str, pattern: str) -> str:
    """`text` with each number that the score pattern finds, `/5` included, replaced by REDACTED.

    Judgements are compared on their reasoning: a meta-judge that sees the scores follows the higher one.
    """

    def hide(match: re.Match[str]) -> str:
        start, end = match.start("score") - match.start(), max(match.end("score"), match.end("scale")) - match.start()
        return match[0][:start] + REDACTED + match[0][end:]

    return score_grammar(pattern).sub(hide, text)


def _compile(pattern: str, placeholder: str, group: str) -> re.Pattern[str]:
    if pattern.count(placeholder) != 1:
        raise StageError(f"pattern {pattern!r} must contain {placeholder} exactly once")
    try:
        return re.compile(pattern.replace(placeholder, group))
    except re.error as error:
        raise StageError(f"pattern {pattern!r} is not a regular expression: {error}") from None


def _last(grammar: re.Pattern[str], text: str) -> re.Match[str] | None:
    match = None
    for match in grammar.finditer(text):  # noqa: B007
        pass
    return match


def _number(digits: str) -> float | None:
    """The value of what a number group caught, full-width digits and signs included; None if it is no number."""
    try:
        return float(unicodedata.normalize("NFKC", digits).replace("−", "-"))
    except ValueError:
        return None
