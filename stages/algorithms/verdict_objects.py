"""Verdicts in JSON objects: a key that names the total, of the last object that has one at its top level."""

import json
import re
from collections.abc import Callable
from typing import Any

from stages.algorithms.plain_text import plain
from stages.algorithms.verdict_values import Value, read_score, read_winner

SCORE_KEYS = {"score", "totalscore", "finalscore", "overallscore", "rating", "overallrating", "finalrating", "total",
              "totalpoints", "grade", "finalgrade"}  # fmt: skip
WINNER_KEYS = {"winner", "verdict", "better", "betterjudgement", "betterjudgment", "choice"}
SCALE_KEYS = {"maxscore", "maximum", "maximumscore", "outof", "maxpoints"}
"""Names of keys, lower case and without marks."""
MOST_OBJECTS = 8
LONGEST_OBJECT = 4000
_PAIR = re.compile(r"""['"]([\w -]{1,40})['"]\s*:\s*['"]?([^,'"\n{}\[\]]{1,40})""")


def score_in_json(text: str) -> Value | None:
    """The score that an object names, on the scale that it names."""
    return _in_json(text, SCORE_KEYS, _score_of_json)


def winner_in_json(text: str) -> Value | None:
    """The winner that an object names."""
    return _in_json(text, WINNER_KEYS, _winner_of_json)


def _in_json(text: str, keys: set[str], read: Callable[[Any], Value | None]) -> Value | None:
    """The value of one of the keys, of the last object that has any, where the object begins a line."""
    end = len(text)
    for _ in range(MOST_OBJECTS):
        end = text.rfind("{", 0, end)
        if end < 0:
            return None
        if text[text.rfind("\n", 0, end) + 1 : end].strip(" \t`"):
            continue
        found = _object(text, end)
        names = {re.sub(r"[\W_]", "", key).lower(): key for key in found}
        for name in names.keys() & keys:
            value = read(found[names[name]])
            if value:
                scales = [found[names[scale]] for scale in SCALE_KEYS & names.keys()]
                top = float(scales[0]) if scales and isinstance(scales[0], int | float) else value.top
                return Value(value.value, *_place(text, end, names[name]), top)
    return None


def _object(text: str, start: int) -> dict[str, Any]:
    """The JSON object that begins at `start`; of what is almost one, the keys that occur once, with their texts."""
    try:
        found = json.JSONDecoder().raw_decode(text, start)[0]
        return dict(found)
    except (ValueError, RecursionError):
        pairs = _PAIR.findall(text[start : start + LONGEST_OBJECT])
        keys = [key for key, _ in pairs]
        return {key: value for key, value in pairs if keys.count(key) == 1}


def _place(text: str, start: int, key: str) -> tuple[int, int]:
    """Where the value of an object's key stands."""
    colon = text.find(":", text.rfind(key, start)) + 1
    end = re.compile(r"[^,}\n]*").match(text, colon)
    return colon, end.end() if end else colon


def _score_of_json(value: Any) -> Value | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    line = plain(value) if isinstance(value, str) else str(value)
    found = read_score(line, 0)
    return found if found and not re.search(r"\w", line[found.end :]) else None


def _winner_of_json(value: Any) -> Value | None:
    return read_winner(plain(value), 0) if isinstance(value, str) else None
