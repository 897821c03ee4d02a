"""What is expected of any answer without being asked for: ours, beside IFEval's instructions.

A check is no purpose. Where only instructions are rewarded, whatever helps one of them is soon done everywhere: titles
that nobody asked for, or an end phrase with no answer before it. Prompts that carry these checks too reward an answer.
"""

import re
from collections.abc import Callable
from typing import Literal

from stages.algorithms.checks.registry import Texts, register

Form = Literal[
    "title", "postscript", "placeholders", "highlights", "bullets", "sections", "dividers", "json", "quotation", "case"
]
"""A conspicuous form of an answer, in which an instruction may ask for it."""


def _shows(pattern: str) -> Callable[[str], bool]:
    return lambda response: re.search(pattern, response, re.MULTILINE) is not None


FORMS: dict[Form, Callable[[str], bool]] = {
    "title": _shows(r"<<[^\n]+>>"),
    "postscript": _shows(r"\bP\.\s?S\."),
    "placeholders": _shows(r"\[[^\]\n]*\]"),
    "highlights": _shows(r"\*[^\n*]+\*"),
    "bullets": _shows(r"^[^\S\n]*(?:-|\*)\s"),
    "sections": _shows(r"^\W*(?:Section|Part)\s?\d"),
    "dividers": _shows(r"\*{3}"),
    "json": _shows(r"\A\s*(?:```\w*\s*)?[\[{]"),
    "quotation": _shows(r'\A\s*"[^"]*"\s*\Z'),
    "case": lambda response: response.isupper() or response.islower(),
}
"""How each form is told; by its look, so that a failed attempt at it counts as well."""
_RUN = re.compile(r"([^\w\s])(?:\s*\1){11}")
"""A dozen times the same mark."""
_DISTINCT = 0.6


@register("implicit:plain_form")
def _plain_form(response: str, allowed: list[Form] | None = None) -> bool:
    """None of the forms but those that are asked for."""
    return not any(shows(response) for form, shows in FORMS.items() if form not in (allowed or []))


@register("implicit:on_topic")
def _on_topic(response: str, words: Texts) -> bool:
    """At least one of the words, or of the beginnings of words, in any case."""
    return any(re.search(rf"(?<!\w){re.escape(word)}", response, re.IGNORECASE) for word in words)


@register("implicit:no_repetition")
def _no_repetition(response: str) -> bool:
    """No run of a dozen equal marks, and of all groups of four words at least 60 % different ones."""
    words = response.lower().split()
    groups = list(zip(*(words[start:] for start in range(4)), strict=False))
    return not _RUN.search(response) and len(set(groups)) >= _DISTINCT * len(groups)
