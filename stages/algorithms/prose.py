"""Words, sentences and the language of a text, by rules that need no downloads and give the same answer every time."""

import re

_WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\w+(?:[-'’.]\w+)*")
_UNSPACED_END = re.compile(r"([。！？]+)")
_ENDS = (".", "!", "?", "…", "。", "！", "？", "।", "۔", "؟")
_OPENERS, _CLOSERS = "\"'“‘«([{*_", "\"'”’»)]}*_"
_LIST_NUMBER = re.compile(r"\d+[.)]")
_ABBREVIATIONS = {
    *("mr", "mrs", "ms", "dr", "prof", "st", "rev", "gen", "sen", "rep", "gov", "capt", "col", "lt", "sgt", "hon"),
    *("e.g", "i.e", "cf", "vs", "viz", "fig", "vol", "pp", "approx", "dept"),
}
_SAME_LANGUAGE = {"yue": "zh", "nb": "no", "nn": "no"}
"""Codes of the identifier that texts asked for under the wider code may get."""


def count_words(text: str) -> int:
    """Runs of letters, digits and underscores: `state-of-the-art` has four."""
    return len(_WORD.findall(text))


def count_capital_words(text: str) -> int:
    """Words with letters, all of them capital; a hyphenated word, a contraction and an acronym with dots are one."""
    return sum(word.isupper() for word in _TOKEN.findall(text))


def count_sentences(text: str) -> int:
    """Sentences of a text.

    A sentence ends at `.`, `!`, `?` or their like before white space or the end, closing quotes and brackets aside; the
    dots of abbreviations (`Dr.`, `e.g.`), initials (`J.`) and list numbers (`1.`) end none, and neither does a line
    break. Text after the last end is one more.
    """
    count, unfinished = 0, False
    for line in _UNSPACED_END.sub(r"\1 ", text).splitlines():
        for place, token in enumerate(line.split()):
            if place == 0 and _LIST_NUMBER.fullmatch(token):
                continue
            unfinished = unfinished or _WORD.search(token) is not None
            if unfinished and _ends_sentence(token):
                count, unfinished = count + 1, False
    return count + unfinished


def language_of(text: str) -> str:
    """ISO 639-1 code of the language that a text is written in, letter case aside. ValueError if it has no letters."""
    if not any(character.isalpha() for character in text):
        raise ValueError("the text has no letters to tell its language by")
    import py3langid  # loads its model, half a second, which most callers never need

    code = str(py3langid.classify(text.lower())[0])
    return _SAME_LANGUAGE.get(code, code)


def _ends_sentence(token: str) -> bool:
    bare = token.rstrip(_CLOSERS)
    if not bare.endswith(_ENDS):
        return False
    word = bare.lstrip(_OPENERS)[:-1]
    initial = len(word) == 1 and word.isupper() and word != "I"
    return not (bare.endswith(".") and (initial or word.lower() in _ABBREVIATIONS))
