"""Verdicts by a regular expression: `strict`, and expressions of one's own with a slot for the value.

The last match in a text is its verdict. A last match that leaves the verdict open (`Score: 3-4`, `Winner: A/B`) is no
verdict, and no earlier one takes its place.
"""

import re
import unicodedata
from functools import cache

from stages.algorithms.verdict_values import Value
from stages.contracts.errors import StageError

REDACTED = "?"

# "Score (0-5): 4": what stands in brackets before the colon tells of the scale. It holds no keyword of its own.
_REMARK = r"[ \t*_]{0,2}[(（\[<](?>(?:(?!score|points)[^\r\n()（）\[\]<>]){1,20})[)）\]>][ \t*_]{0,2}"

STRICT = (
    # A line of its own: `Score`, a colon and the number, with a remark, a scale, bold marks, brackets and final dots.
    rf"(?im)^[ \t*_]*+score(?:{_REMARK}|[ \t*_]{{0,2}})[:：][ \t*_<\[(]{{0,5}}"
    r"{{ score }}[ \t\r*_>\]).．。]*+$"
)

# A sign counts only where it does not join words ("Score-4" is 4). Possessive quantifiers and atomic groups keep a
# number whole, so that no pattern can read 45 as 4, and keep matching linear. A possessive quantifier of a group
# matches wrongly before Python 3.11.5 (CPython #106052): there it is an atomic group. `float` judges what was caught.
_DIGITS = r"\d++(?>(?:[.．,，]\d++)*)(?>(?:[eE][-+]?\d++)?)"
_NUMBER = rf"(?<![\W_][-−])(?P<score>(?:(?<![^\W_])[-−])?{_DIGITS})"
# A scale stands in the number's own line: what the next line counts "out of 10" is something else.
_OUT_OF = r"[^\S\n]*+(?:[/／]|out[^\S\n]+of\b)[^\S\n]*+"
_HIGHEST = r"\d++(?>(?:[.．]\d++)?)"
_SCALE = rf"(?:{_OUT_OF}(?P<scale>{_HIGHEST}))?"
# "3-4", "4 or 5", "3/5 to 4/5" leave the score open; what has a scale is joined to the like only ("4/5 - 1 was lost").
_GAP = r"(?>(?:[^\S\n]|[*_<>\[\]]){0,8})"
_JOINED = rf"{_GAP}(?:[-‐-―−~～〜]|(?i:to|or)){_GAP}[-−]?{_DIGITS}"
_RANGE = rf"(?P<other>(?>(?:{_JOINED}(?(scale){_OUT_OF}{_HIGHEST}|(?>(?:{_OUT_OF}{_HIGHEST})?)))+))?"

# "Winner: a tie" names nobody: an `a` with a word behind it is an article, unless "judgement" stands before it.
_NAMED = "|".join(rf"(?<=ment[\W_]{{{marks}}})" for marks in range(1, 5))
_SLOT = rf"(?:[Bb]|(?:{_NAMED})[Aa]|[Aa](?![ \t]+\w))(?![^\W_])"
# "Judgement A | Judgement B", "A/B", "A and B" leave the winner open.
_MARKS = r"[ \t*_`'\"<>()\[\]]{0,4}+"
_BOTH = rf"{_MARKS}(?>(?:(?:[|/=&+]|(?i:and|or|vs)\b\.?){_MARKS}){{1,3}})(?:(?i:judge?ment)[\W_]{{0,4}})?{_SLOT}"
_WINNER = rf"(?P<winner>{_SLOT}|[Aa](?={_BOTH}))(?P<other>{_BOTH})?"


@cache
def score_grammar(pattern: str) -> re.Pattern[str]:
    """The regular expression of a score pattern (or of `strict`), with groups `score`, `scale` (the 5
    of `4/5`) and `other` (the `-4` of `3-4`). Raises StageError if the pattern is not a regular expression with the
    placeholder `{{ score }}`.
    """
    return _compile(STRICT if pattern == "strict" else pattern, "{{ score }}", _NUMBER + _SCALE + _RANGE)


@cache
def winner_grammar(pattern: str) -> re.Pattern[str]:
    """The regular expression of a winner pattern , with groups `winner` and `other` (the `/B` of
    `A/B`). Raises StageError like `score_grammar`.
    """
    return _compile(pattern, "{{ winner }}", _WINNER)


def pattern_score(text: str, pattern: str) -> Value | None:
    """The last score that a pattern finds; open where it is a range or alternatives, or no number."""
    match = last_match(score_grammar(pattern), "score", text)
    if match is None:
        return None
    value = None if match["other"] else _number(match["score"])
    return Value(value, *match.span(), _number(match["scale"]) if match["scale"] else None)


def pattern_winner(text: str, pattern: str) -> Value | None:
    """The last winner that a pattern finds; open where it names both."""
    match = last_match(winner_grammar(pattern), "winner", text)
    return Value(None if match["other"] else match["winner"].lower(), *match.span()) if match else None


def redact_pattern(text: str, pattern: str) -> str:
    """`text` with each number that a score pattern finds replaced by REDACTED, a scale or the whole of a range too.

    Repeated until nothing is found, as hiding one number can bring another one to light; each step hides a digit.
    """
    grammar = score_grammar(pattern)
    while match := last_match(grammar, "score", text):
        end = max(match.end(group) for group in ("score", "scale", "other"))
        text = text[: match.start("score")] + REDACTED + text[end:]
    return text


def last_match(grammar: re.Pattern[str], slot: str, text: str) -> re.Match[str] | None:
    """The last of all matches in which the group `slot` took part."""
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
