"""Generated text as a reader takes it: the model's own turn, without thoughts, quotations and marks.

Everything here keeps positions: what is left out becomes blank, so that a place found in the result is the same place
in the text. All functions take time in proportion to the text, whatever it holds.
"""

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

_THOUGHTS = (
    *((f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning")),
    ("[think]", "[/think]"),
    ("<|channel|>analysis", "<|end|>"),
)
_TURN_END = re.compile(
    r"<\|(?:endoftext|end_of_text|eot_id|eom_id|im_end|im_start|end|start_header_id)\|>|</s>|<eos>|<end_of_turn>"
)
_STRUCK = re.compile(r"~~[^~\n]{1,40}~~|<(s|del|strike)>[^<>\n]{0,40}</\1>", re.IGNORECASE)
_LATEX = re.compile(r"\\(?:fbox|text|textbf|mathbf|mathrm|quad)\b|\\[()\[\]]|\\")
_TAG = re.compile(r"<(/?)([a-z]|[A-Za-z|][\w|:.-]{1,20}|[A-Za-z]\w{0,10} \w[^<>\n]{0,70}\")>")
_LABEL_TAG = re.compile(r"(?:\w{0,8}[_-])?(?:score|rating|winner)", re.IGNORECASE)
_ANGLES = re.compile(r"<([^<>\n]{1,40})>")

_BLANK = (
    '*_`"“”„«»‹›『』「」$#^}★☆⭐'
    "\u00a0\u2002\u2003\u2009\u202f\u3000\u200b\u200e\u200f\ufeff\ufe0f"  # spaces; signs without width
)
_SAME = {
    "：": ":", "＝": "=", "／": "/", "．": ".", "。": ".", "，": ",", "、": ",", "！": "!", "？": "?", "＋": "+",
    "％": "%", "｜": "|", "＞": ">", "→": ">", "➜": ">", "➔": ">", "⇒": ">", "’": "'", "‘": "'", "′": "'", "…": ".",
    **dict.fromkeys("（[【", "("), **dict.fromkeys("）]】", ")"), **dict.fromkeys("‐‑‒–—―－−", "-"),
    **dict.fromkeys("〜～≈", "~"),
}  # fmt: skip


def folded_case(text: str) -> str:
    """Lower case, at the same places: `İ` alone would become longer."""
    return text.replace("İ", "I").lower()


def own_turn(text: str) -> str:
    """`text` up to the first token, spelled out, that ends a turn: what follows is not the model's to say."""
    if "<" not in text:
        return text
    end = next((found.start() for found in _TURN_END.finditer(text) if text[: found.start()].strip()), len(text))
    return text[:end]


def without_thoughts(text: str, blank: str = "\n") -> str:
    """`text` with each character of a thought replaced by `blank`.

    Thoughts are what stands between `<think>` and `</think>` (and their like), after a `<think>` that nothing closes,
    and before a `</think>` that nothing opens: some templates open the thought themselves.
    """
    if "<" not in text and "[" not in text:
        return text
    for opening, closing in _THOUGHTS:
        folded = folded_case(text)
        if opening in folded or (closing in folded and "/" in closing):
            text = _blanked(text, _between(folded, opening, closing), blank)
    return text


def ending(text: str, size: int) -> int:
    """Where the last `size` characters begin; if that is in a thought, where the thought ends."""
    start = max(0, len(text) - size)
    for opening, closing in _THOUGHTS if start else ():
        if text.rfind(opening, 0, start) > text.rfind(closing, 0, start):
            end = text.find(closing, start)
            start = end + len(closing) if end >= 0 else len(text)
    return start


def without_quotations(text: str) -> str:
    """`text` with fenced blocks and lines that begin with `>` blanked."""
    if "```" not in text and ">" not in text:
        return text
    fences = _blanked(text, _between(text, "```", "```"))
    lines = ((found.start(), found.end()) for found in re.finditer(r"^[ \t]*>.*$", fences, re.MULTILINE))
    return _blanked(fences, lines)


def plain(text: str) -> str:
    """A short piece of text in which marks of emphasis, tags and LaTeX are blanks, struck-out words too, and digits,
    brackets, dashes and punctuation of all scripts are those of ASCII. A tag `<score>` reads ` score:`."""
    if "~~" in text or "<" in text:
        text = _STRUCK.sub(lambda found: " " * len(found[0]), text)
        text = _TAG.sub(_untagged, text)
        text = _ANGLES.sub(r" \1 ", text)
    if "\\" in text:
        text = _LATEX.sub(lambda found: " " * len(found[0]), text)
    return text.translate(_ASCII) if text.isascii() else "".join(map(_character, text))


def _between(text: str, opening: str, closing: str) -> Iterator[tuple[int, int]]:
    """Stretches from `opening` through `closing`; the last may lack its end, and another than the same mark its
    beginning."""
    done, start = 0, text.find(opening)
    stop = text.find(closing)
    while start >= 0 or stop >= 0:
        begin = start if start >= 0 and (stop < 0 or start <= stop) else done
        stop = text.find(closing, begin + len(opening) if begin == start else begin)
        end = stop + len(closing) if stop >= 0 else len(text)
        yield begin, end
        done = end
        start = text.find(opening, done) if 0 <= start < done else start
        stop = text.find(closing, done) if 0 <= stop < done else stop


def _blanked(text: str, spans: Iterator[tuple[int, int]], blank: str = "\n") -> str:
    parts, done = [], 0
    for start, end in spans:
        parts += [text[done:start], blank * (end - start)]
        done = end
    return "".join([*parts, text[done:]]) if parts else text


def _untagged(found: re.Match[str]) -> str:
    """A tag as blanks; that of a score or winner as its label."""
    if not found[1] and _LABEL_TAG.fullmatch(found[2]):
        return f" {found[2].replace('_', ' ').replace('-', ' ')}:"
    return " " * len(found[0])


@cache
def _character(sign: str) -> str:
    if sign in _BLANK:
        return " "
    if sign in _SAME:
        return _SAME[sign]
    if unicodedata.category(sign) == "Nd":
        return str(unicodedata.digit(sign))
    folded = unicodedata.normalize("NFKC", sign)
    return folded if len(folded) == 1 and folded.isalpha() else sign


_ASCII = str.maketrans({chr(code): _character(chr(code)) for code in range(128)})
