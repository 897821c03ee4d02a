"""Values as plain text: what a model or a data set wrote may hold signs that command a terminal, and is long."""

import json
import math
import unicodedata
from typing import Any


def harmless(value: Any) -> Any:
    """A document in which every text, keys too, has its unseen signs written out (`\\x1b`); line ends stay."""
    if isinstance(value, dict):
        return {harmless(key): harmless(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [harmless(part) for part in value]
    return _seen(value) if isinstance(value, str) else value


def _seen(text: str) -> str:
    """A text of printable signs and line ends."""
    text = text.replace("\r\n", "\n").replace("\t", "    ")
    if text.isascii() and text.isprintable():
        return text
    return "".join(sign if _is_seen(sign) else sign.encode("unicode_escape").decode() for sign in text)


def _is_seen(sign: str) -> bool:
    return sign == "\n" or sign.isprintable() or unicodedata.category(sign) == "Zs"


def cut(text: str, limit: int | None) -> str:
    """At most `limit` characters of a text, on one line, and how many more there are; without a limit the text."""
    if limit is None:
        return text
    line = text.replace("\n", "⏎")
    return line if len(line) <= limit else f"{line[:limit]}… (+{len(line) - limit})"


def number(value: float | int | None) -> str:
    """A number as short as it is still telling; nothing for none."""
    if value is None:
        return ""
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}" if abs(value) < 1e9 else f"{value:.3g}"


def as_json(document: Any) -> str:
    """A document as strict JSON in ASCII: no sign of it commands a terminal, a number that is not finite is a text."""
    return json.dumps(_finite(document), indent=1, allow_nan=False, default=str).replace("\x7f", "\\u007f")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
