"""What the pages of the documentation tell their readers to type."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for folder in ("", "docs", "config", "examples/smollm2", "examples/tinyworld")
    for page in (ROOT / folder).glob("*.md")
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$|(?:^ {4}[^\n]*\n?)+", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:make|snakemake|pytest|python -m stages\.\w+) [^`<]+)`")
PROGRAMS = ("make", "snakemake", "python", "pip", "pytest", "source", "export", "cp")
ASSIGNMENT = re.compile(r"[A-Z_]+=")


class Command(NamedTuple):
    """A command line, as words without what the shell takes off (assignments, redirections, what a pipe feeds)."""

    page: str
    words: tuple[str, ...]


def fenced(language: str) -> list[tuple[str, str]]:
    """Each block of code in a language, with its page."""
    found = ((page, block) for page in PAGES for block in BLOCK.finditer(page.read_text(encoding="utf-8")))
    return [(str(page.relative_to(ROOT)), block[2]) for page, block in found if block[1] == language]


def commands() -> list[Command]:
    """Each command of the indented blocks, and each one that stands in a sentence; twice the same is one."""
    found: dict[tuple[str, ...], Command] = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = [re.sub(r"\\\n +", "", block[0]) for block in BLOCK.finditer(text) if block[1] is None]
        lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
        for line in [*lines, *INLINE.findall(text)]:
            if words := _words(line):
                found.setdefault(words, Command(str(page.relative_to(ROOT)), words))
    return list(found.values())


def _words(line: str) -> tuple[str, ...]:
    """The words of a command line of one of our programs; none where it is anything else."""
    first = next((word for word in line.split() if not ASSIGNMENT.match(word)), "")
    if first.rpartition("/")[2] not in PROGRAMS:
        return ()
    words = shlex.split(line.partition(" |")[0], comments=True)
    words = words[next(number for number, word in enumerate(words) if not ASSIGNMENT.match(word)) :]
    return (words[0].rpartition("/")[2], *words[1:])
