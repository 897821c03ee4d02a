"""The grammar of verdicts: scores in judgements, winners in meta-judgements, and scores hidden from a meta-judge.

A pattern is the name of a grammar, or a regular expression with one placeholder, `{{ score }}` or `{{ winner }}`. The
last match in a text is its verdict: what a text quotes or weighs on the way to its conclusion does not count. A last
match that leaves the verdict open (`Score: 3-4`, `Winner: A/B`) is no verdict, and no earlier one takes its place.
Parser and redaction share one search, so that nothing which could be parsed is left to see.
"""

import re
import unicodedata
from functools import cache
from typing import NamedTuple

from stages.contracts.errors import StageError

REDACTED = "?"

# "Score (0-5): 4": what stands in brackets before the colon tells of the scale. It holds no keyword of its own.
_REMARK = r"[ \t*_]{0,2}[(（\[<](?:(?!score|points)[^\r\n()（）\[\]<>]){1,20}+[)）\]>][ \t*_]{0,2}"

SCORE_GRAMMARS = {
    # A line of its own: `Score`, a colon and the number, with a remark, a scale, bold marks, brackets and final dots.
    "strict": rf"(?im)^[ \t*_]*+score(?:{_REMARK}|[ \t*_]{{0,2}})[:：][ \t*_<\[(]{{0,5}}"
    r"{{ score }}[ \t\r*_>\]).．。]*+$",
    # Anywhere: `Score` or `Points`, a remark if a number follows on its line ("Score (4): good" has none), up to eight
    # marks that do not end a sentence, and the number. An underscore is a mark (`__Score:__ 4`), no part of a word.
    "lenient": rf"(?i)(?<![^\W_])(?:score|points)(?![^\W_])(?:{_REMARK}[:：=|](?=(?:[^\w.;!?\n]|_){{0,7}}\d))?"
    r"(?:[^\w.;!?]|_){0,8}{{ score }}",
}
"""The named grammars of scores; whatever `strict` finds, `lenient` finds too."""

WINNER_GRAMMARS = {
    # Anywhere: `Winner`, up to eight marks that do not end a sentence, perhaps `judgement`, and the letter.
    "lenient": r"(?i)winner(?:[^\w.;!?]|_){1,8}(?:judge?ment[\W_]{0,4})?{{ winner }}",
}
"""The named grammar of winners."""

# A sign counts only where it does not join words ("Score-4" is 4). Possessive quantifiers keep a number whole, so
# that no pattern can read 45 as 4, and keep matching linear. `float` judges what the group caught ("4,5" is none).
_DIGITS = r"\d++(?:[.．,，]\d++)*+(?:[eE][-+]?\d++)?+"
_NUMBER = rf"(?<![\W_][-−])(?P<score>(?:(?<![^\W_])[-−])?{_DIGITS})"
# A scale stands in the number's own line: what the next line counts "out of 10" is something else.
_OUT_OF = r"[^\S\n]*+(?:[/／]|out[^\S\n]+of\b)[^\S\n]*+"
_HIGHEST = r"\d++(?:[.．]\d++)?+"
_SCALE = rf"(?:{_OUT_OF}(?P<scale>{_HIGHEST}))?"
# "3-4", "4 or 5", "3/5 to 4/5" leave the score open; what has a scale is joined to the like only ("4/5 - 1 was lost").
_GAP = r"(?:[^\S\n]|[*_<>\[\]]){0,8}+"
_JOINED = rf"{_GAP}(?:[-‐-―−~～〜]|(?i:to|or)){_GAP}[-−]?{_DIGITS}"
_RANGE = rf"(?P<other>(?:{_JOINED}(?(scale){_OUT_OF}{_HIGHEST}|(?:{_OUT_OF}{_HIGHEST})?+))++)?"

# "Winner: a tie" names nobody: an `a` with a word behind it is an article, unless "judgement" stands before it.
_NAMED = "|".join(rf"(?<=ment[\W_]{{{marks}}})" for marks in range(1, 5))
_SLOT = rf"(?:[Bb]|(?:{_NAMED})[Aa]|[Aa](?![ \t]+\w))(?![^\W_])"
# "Judgement A | Judgement B", "A/B", "A and B" leave the winner open.
_MARKS = r"[ \t*_`'\"<>()\[\]]{0,4}+"
_BOTH = rf"{_MARKS}(?:(?:[|/=&+]|(?i:and|or|vs)\b\.?){_MARKS}){{1,3}}+(?:(?i:judge?ment)[\W_]{{0,4}})?{_SLOT}"
_WINNER = rf"(?P<winner>{_SLOT}|[Aa](?={_BOTH}))(?P<other>{_BOTH})?"

_KEYWORDS = {
    ("score", "strict"): ("score",),
    ("score", "lenient"): ("score", "points"),
    ("winner", "lenient"): ("winner",),
}
"""Grammars whose every match holds exactly one of these words, so that the last one can be sought from the end."""


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
    """The regular expression of a score pattern (or of `strict`, `lenient`), with groups `score`, `scale` (the 5
    of `4/5`) and `other` (the `-4` of `3-4`). Raises StageError if the pattern is not a regular expression with the
    placeholder `{{ score }}`.
    """
    return _compile(SCORE_GRAMMARS.get(pattern, pattern), "{{ score }}", _NUMBER + _SCALE + _RANGE)


@cache
def winner_grammar(pattern: str) -> re.Pattern[str]:
    """The regular expression of a winner pattern (or of `lenient`), with groups `winner` and `other` (the `/B` of
    `A/B`). Raises StageError like `score_grammar`.
    """
    return _compile(WINNER_GRAMMARS.get(pattern, pattern), "{{ winner }}", _WINNER)


def parse_score(text: str, finish_reason: str, pattern: str, low: float, high: float) -> Score:
    """The last score in a judgement; total over all texts.

    Status: `ok`; `no_match`, also where the last match is a range or alternatives; `out_of_range` (outside [low, high],
    or given on a scale that does not end at `high`, never clamped); `length` or `error` where generation ended so,
    whatever the text holds.
    """
    if finish_reason != "stop":
        return Score(finish_reason, None, None)
    match = last_match(score_grammar(pattern), "score", text, pattern)
    value = None if match is None or match["other"] else _number(match["score"])
    if match is None or value is None:
        return Score("no_match", None, None)
    scale = _number(match["scale"]) if match["scale"] else high
    if not low <= value <= high or scale != high:
        return Score("out_of_range", None, match.span())
    return Score("ok", value, match.span())


def parse_winner(text: str, finish_reason: str, pattern: str) -> Winner:
    """The last winner in a meta-judgement. Status: `ok`; `no_match`, also where the last match names both; `length` or
    `error` as in `parse_score`.
    """
    if finish_reason != "stop":
        return Winner(finish_reason, None)
    match = last_match(winner_grammar(pattern), "winner", text, pattern)
    if match is None or match["other"]:
        return Winner("no_match", None)
    return Winner("ok", match["winner"].lower())


def redact(text: str, pattern: str) -> str:
    """`text` with each number that the score pattern finds replaced by REDACTED, a scale or the whole of a range too.

    Judgements are compared on their reasoning: a meta-judge that sees the scores follows the higher one. Repeated
    until nothing is found, as hiding one number can bring another one to light; each step hides a digit.
    """
    grammar = score_grammar(pattern)
    while match := last_match(grammar, "score", text, pattern):
        end = max(match.end(group) for group in ("score", "scale", "other"))
        text = text[: match.start("score")] + REDACTED + text[end:]
    return text


def last_match(grammar: re.Pattern[str], slot: str, text: str, pattern: str) -> re.Match[str] | None:
    """The last match of `pattern` (compiled: `grammar`) in which the group `slot` took part.

    Judgements end in their verdict, so the known patterns are tried from the last of their keywords backwards. That is
    the last match of a search from the start, because no match of theirs can hold the keyword of another one.
    """
    keywords = _KEYWORDS.get((slot, pattern))
    # What `(?i)` takes for the letters of the keywords; `İ` alone changes the length of a text, and so every position.
    folded = text.lower().replace("ı", "i").replace("ſ", "s") if keywords else ""
    if not keywords or len(folded) != len(text):
        return search_from_start(grammar, slot, text)
    found = None
    for keyword in keywords:
        end = len(text)
        while (position := folded.rfind(keyword, found.end() if found else 0, end)) >= 0:
            end = text.rfind("\n", 0, position) + 1 if pattern == "strict" else position
            if match := grammar.match(text, end):
                found = match
                break
    return found


def search_from_start(grammar: re.Pattern[str], slot: str, text: str) -> re.Match[str] | None:
    """The last of all matches from the start in which the group `slot` took part: what `last_match` means."""
    found = None
    for match in grammar.finditer(text):
        if match[slot] is not None:
            found = match
    return found


def _compile(pattern: str, placeholder: str, group: str) -> re.Pattern[str]:
    if pattern.count(placeholder) != 1:
        raise StageError(f"pattern {pattern!r} must contain {placeholder} exactly once")
    try:
        return re.compile(pattern.replace(placeholder, group))
    except re.error as error:
        raise StageError(f"pattern {pattern!r} is not a regular expression: {error}") from None


def _number(digits: str) -> float | None:
    """The value of what a number group caught, full-width digits and signs included; None if it is no number."""
    try:
        return float(digits if digits.isascii() else unicodedata.normalize("NFKC", digits).replace("−", "-"))
    except ValueError:
        return None
