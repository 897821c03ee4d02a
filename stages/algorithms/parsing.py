"""Verdicts read from what a model wrote: the score of a judgement, the winner of a comparison; and scores hidden.

`lenient`, the default, knows the forms in which models state a verdict (`verdict_forms`); `strict` and expressions of
one's own are regular expressions (`verdict_patterns`). Thoughts never count. Whole columns are read by
`votes_and_battles`, which reads the usual plain ends of texts faster (`plain_ends`).
"""

import heapq
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

from stages.algorithms.plain_text import ending, folded_case, own_turn, plain, without_quotations, without_thoughts
from stages.algorithms.verdict_forms import (
    SCORE_LABELS,
    SCORE_SENTENCES,
    WINNER_LABELS,
    WINNER_SENTENCES,
    Form,
    Forms,
)
from stages.algorithms.verdict_objects import score_in_json, winner_in_json
from stages.algorithms.verdict_patterns import pattern_score, pattern_winner, redact_pattern
from stages.algorithms.verdict_values import Value, read_score, read_winner

LENIENT = "lenient"
REDACTED = "?"
WIDTH = 400
"""Characters of a statement that are looked at."""
MOST_PLACES = 300
"""Places, from the end, at which a statement is sought: a text that names scores more often is no judgement."""
LONGEST = 100_000
"""Characters at the end of a text in which its verdict is sought."""
LAST_LINES = 3
"""Lines at the end, blank ones aside, among which a number with its scale may stand alone."""
Reader = Callable[[str, int], Value | None]

_SENTENCE_END = re.compile(r"[.!?;][\"'”’)*_]{0,3}[^\S\n]+")
_USER = re.compile(r"^(?:User|Human|### ?(?:User|Instruction))[ \t]*:", re.MULTILINE)
_LINE_END = re.compile(r"[\W_]*?(?:\n|\Z)")
_TOP_OF_REMARK = re.compile(r"(?:/|-|to|of|from|max\w*|[.][.])\W?(\d{1,3})\W*$", re.IGNORECASE)
_ALONE = re.compile(r"[\W_]{0,12}(?=\d)")
_DIGITS = r"\d++(?>(?:\.\d++)?)"
_SUMS = re.compile(rf"{_DIGITS}(?>(?:[^\S\n]?\+[^\S\n]?{_DIGITS})+)(?>(?:[^\S\n]?=[^\S\n]?{_DIGITS})?)")
_STARS = re.compile(r"[★☆⭐]+\ufe0f?")
_NUMBERS = re.compile(r"(?<![\w.,])\d++(?>(?:[.．]\d++)?)(?!\w|[.,．]\d)")


class Score(NamedTuple):
    """A parsed judgement: `value` is null unless `status` is `ok`; `span` is its statement, in characters."""

    status: str
    value: float | None
    span: tuple[int, int] | None


class Winner(NamedTuple):
    """A parsed meta-judgement: `value` is `a` (shown first) or `b`, null unless `status` is `ok`."""

    status: str
    value: str | None


def parse_score(text: str, finish_reason: str, pattern: str, low: float, high: float) -> Score:
    """The score that a judgement states; total over all texts.

    Status: `ok`; `no_match`, also where the statement leaves the score open; `out_of_range` (outside [low, high], or on
    a scale that does not end at `high`, never clamped); `length` or `error` where generation ended so, whatever the
    text holds.
    """
    if finish_reason != "stop":
        return Score(finish_reason, None, None)
    start = ending(text, LONGEST)
    shown = own_turn(without_thoughts(text[start:]))
    found = _last_score(shown) if pattern == LENIENT else pattern_score(shown, pattern)
    if found is None or not isinstance(found.value, float):
        return Score("no_match", None, None)
    span = (start + found.span[0], start + found.span[1])
    if not low <= found.value <= high or found.top not in (None, high):
        return Score("out_of_range", None, span)
    return Score("ok", found.value, span)


def parse_winner(text: str, finish_reason: str, pattern: str) -> Winner:
    """The winner that a meta-judgement names. Status: `ok`; `no_match`, also where it names both or none; `length` or
    `error` as in `parse_score`."""
    if finish_reason != "stop":
        return Winner(finish_reason, None)
    shown = own_turn(without_thoughts(text[ending(text, LONGEST) :]))
    found = _last_winner(shown) if pattern == LENIENT else pattern_winner(shown, pattern)
    return Winner("ok", found.value) if found and isinstance(found.value, str) else Winner("no_match", None)


def redact(text: str, pattern: str) -> str:
    """`text` without its thoughts and with the score that it states hidden, whatever its form.

    Judgements are compared on their reasoning: a meta-judge that sees the scores follows the higher one. Hidden are the
    value of every statement, sums, stars, and every number that equals the score.
    """
    shown = own_turn(without_thoughts(text, blank="")).strip()
    if pattern != LENIENT:
        return redact_pattern(shown, pattern)
    stated = [_last_score(shown), _alone(shown)]
    for forms in (SCORE_LABELS, SCORE_SENTENCES):
        stated += statements(shown, forms, read_score)
    # The score was read with a thought as blank lines, here its ends meet: the two may differ.
    read = _last_score(own_turn(without_thoughts(text)))
    equal = {value.value for value in (read, *stated[:2]) if value and value.value is not None}
    spans = [(value.start, value.end) for value in stated if value and value.value is not None]
    spans += [found.span() for found in (*_SUMS.finditer(shown), *_STARS.finditer(shown))]
    spans += [found.span() for found in _NUMBERS.finditer(shown) if _as_number(found[0]) in equal]
    hidden = _hidden(shown, spans)
    read_again = [value for value in (_last_score(hidden), _alone(hidden)) if value and value.value in equal]
    # Hiding one value can make a statement of what was none before.
    return redact(hidden, pattern) if read_again and hidden != shown else hidden


def statements(text: str, forms: Forms, read: Reader) -> Iterator[Value]:
    """The values of all statements of some forms, from the last to the first."""
    folded = folded_case(text)
    places = heapq.merge(*(_backwards(folded, word) for word in forms if word in folded), reverse=True)
    for place, word in islice(places, MOST_PLACES):
        for start in _sentence_starts(text, place):
            region = plain(text[start : start + WIDTH])
            found = (_statement(region, place - start, form, read) for form in forms[word])
            if value := next(filter(None, found), None):
                yield value.at(start)
                break


def _statement(region: str, word: int, form: Form, read: Reader) -> Value | None:
    """The value of a statement of this form at the beginning of a piece of plain text that has the form's word."""
    lead = form.pattern.match(region)
    value = read(region, lead.end()) if lead and lead.end() >= word else None
    if lead is None or value is None or (form.ends and not _LINE_END.match(region, value.end)):
        return None
    return value._replace(top=value.top or _top_of_remark(lead), statement=_first_word(region))


def _first_word(region: str) -> int:
    found = re.search(r"[^\W_]", region)
    return found.start() if found else 0


def _top_of_remark(lead: re.Match[str]) -> float | None:
    """The 10 of `Score (1-10)`."""
    found = _TOP_OF_REMARK.search(lead.groupdict().get("remark") or "")
    return float(found[1]) if found else None


def _last_score(text: str) -> Value | None:
    """The value of the last statement of the highest authority; None if there is none."""
    text = _before_invented_turns(text, SCORE_LABELS, read_score)
    own = without_quotations(text)
    found = next(statements(own, SCORE_LABELS, read_score), None) or score_in_json(text)
    found = found or next(statements(own, SCORE_SENTENCES, read_score), None) or _alone(own)
    return found or next(_at_the_end(own, text, SCORE_LABELS, read_score), None)


def _last_winner(text: str) -> Value | None:
    text = _before_invented_turns(text, WINNER_LABELS, read_winner)
    own = without_quotations(text)
    found = next(statements(own, WINNER_LABELS, read_winner), None) or winner_in_json(text)
    found = found or next(statements(own, WINNER_SENTENCES, read_winner), None)
    return found or next(_at_the_end(own, text, WINNER_LABELS, read_winner), None)


def _before_invented_turns(text: str, forms: Forms, read: Reader) -> str:
    """`text` up to where the model goes on to play the user, if it has stated its verdict by then."""
    turn = _USER.search(text) if ":" in text else None
    return text[: turn.start()] if turn and any(statements(text[: turn.start()], forms, read)) else text


def _at_the_end(own: str, text: str, forms: Forms, read: Reader) -> Iterator[Value]:
    """Statements in a quotation with which the text ends: some models put their verdict in one."""
    return statements(text, forms, read) if len(own.rstrip()) < len(text.rstrip(" \n`")) else iter(())


def _alone(text: str) -> Value | None:
    """A number with its scale and nothing else on one of the last lines."""
    end = len(text)
    for _ in range(LAST_LINES):
        end = len(text[max(0, end - WIDTH) : end].rstrip()) + max(0, end - WIDTH)
        start = text.rfind("\n", max(0, end - WIDTH), end) + 1
        line = plain(text[start:end]) if end - start < WIDTH else ""
        lead = _ALONE.match(line)
        value = read_score(line, lead.end()) if lead else None
        if value and value.top is not None and not re.search(r"\w", line[value.end :]):
            return value.at(start)
        end = max(0, start - 1)
    return None


def _sentence_starts(text: str, place: int) -> Iterator[int]:
    """Where the line that holds `place` begins, and where the sentence does; neither if that is too far away."""
    line = text.rfind("\n", max(0, place - WIDTH // 2), place) + 1
    if line or place < WIDTH // 2:
        yield line
    ends = list(_SENTENCE_END.finditer(text, max(line, place - WIDTH // 2), place))
    if ends:
        yield ends[-1].end()


def _backwards(folded: str, word: str) -> Iterator[tuple[int, str]]:
    """The places of a word, from the last to the first, each with the word."""
    place = folded.rfind(word)
    while place >= 0:
        yield place, word
        place = folded.rfind(word, 0, place)


def _as_number(digits: str) -> float:
    return float(digits.replace("．", "."))


def _hidden(text: str, spans: list[tuple[int, int]]) -> str:
    """`text` with each stretch of touching or overlapping spans replaced by REDACTED."""
    parts, done = [], 0
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    for start, end in merged:
        parts += [text[done:start], REDACTED]
        done = end
    return "".join([*parts, text[done:]])
