"""Filter prompts: what a model wrote becomes prompts, or is dropped with a reason.

Reads:  all creations of the iteration, the pool of prompts, and the prompts that earlier iterations created.
Does:   cleans each text, then drops, in this order, what was cut or failed (`length`, `error`), is `empty`, too `short`
        or `overlong`, has a `keyword`, is a `refusal`, has its `answer` with it, is `malformed`, is a `duplicate` of a
        prompt, a `near_duplicate`, or too `similar`. The last three compare with every prompt of the pool, of earlier
        iterations, and with the new ones kept so far; each filter sees what the ones before it let through, in the
        order of the creations.
Writes: the prompts, for training, and a ledger with one reason for each creation that became none.
"""

import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeAlias

import polars as pl
import regex
from pydantic import Field

from stages.algorithms.similarity import SHINGLE, Match, near_duplicates, shingles, similar, words
from stages.algorithms.thoughts import answer_of
from stages.config import CreateSettings
from stages.contracts import artifacts
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.files import Shards
from stages.contracts.ids import folded, prompt_id
from stages.contracts.provenance import describe
from stages.contracts.schema import frame
from stages.tables import CREATION_LEDGER, CREATIONS, PROMPTS

REPEATED_LINES = 0.3
"""Largest share of lines that repeat an earlier one (Rae et al. 2021, table A1)."""
REPEATED_CHARACTER = 0.4
"""Largest share of one character; no script's most frequent letter comes near."""
REPEATED_SHINGLES = 0.5
"""Largest share of runs of words that repeat an earlier one; single words recur in any sound text."""
FEW = 10
"""Fewer characters or runs of words than this (or a third as many lines) say nothing about repetition."""

_LABEL = r"(?:(?:new|next|example)\s+)?(?:task|instruction|prompt|question|request)"
_POLITE = r"(?:sure|certainly|of course|absolutely|okay|ok|great)"
_LEADS = [
    r"</?task>",
    r"[#>*+-]+(?=\s)",
    r"\p{N}{1,3}[.):](?=\s)",
    rf"(?:\*\*)?{_LABEL}\s*[#№]?\p{{N}}{{1,3}}(?:\*\*)?\s*[:.)\n](?:\*\*)?",
    rf"(?:\*\*)?{_LABEL}\s*(?:\*\*)?:(?:\*\*)?",
    rf"(?:\*\*)?{_LABEL}(?:\*\*)?[ \t]*\n",
    rf"(?:{_POLITE}[ \t]*[!,.:]*\s*)?here(?:'s|’s| is| are)\b[^:\n]{{0,40}}\b{_LABEL}s?\b[^:\n]{{0,40}}:",
    rf"{_POLITE}[ \t]*!",
]
_LEAD = regex.compile(rf"^(?:{'|'.join(_LEADS)})\s*", regex.IGNORECASE)
_TAIL = regex.compile(r"\s*</?task>$", regex.IGNORECASE)
_QUOTES = [(mark, mark) for mark in ("'", '"', "**", "__", "*", "```", "`")]
_QUOTES += [("“", "”"), ("„", "“"), ("«", "»"), ("「", "」")]
_ANOTHER = regex.compile(rf"</?task>|^[\s#*>-]*{_LABEL}\s*[#№]?\p{{N}}+\b", regex.IGNORECASE | regex.MULTILINE)
_NUMBER = regex.compile(r"^(\p{Nd}{1,3})[.):]\s", regex.MULTILINE)
_ROLES = [
    r"^\W*(?:user|human|assistant|system|ai)\W{0,2}:",
    r"<\|[^|<>\n]*\|>|<(?:start|end)_of_turn>|\[/?INST\]",
    r"^#+ *(?:instruction|response)s?\b",
]
_ROLE = regex.compile("|".join(_ROLES), regex.IGNORECASE | regex.MULTILINE)

_REFUSAL = regex.compile(
    r"^(?:i(?:['’]?m| am) (?:sorry|unable)|sorry[,.]|i can(?:no|['’]?)t\b|unfortunately, i\b|as an? (?:ai|language)\b)",
    regex.IGNORECASE,
)
_ANSWER = regex.compile(
    r"^[\s#>*]*(?:(?:sample|expected|correct|possible) )?(?:answer|solution|response)s?\s*(?:\*\*)?:(?:\*\*)?\s*\S",
    regex.IGNORECASE | regex.MULTILINE,
)

Drop: TypeAlias = tuple[str, str]
"""Reason and detail."""


class Text(NamedTuple):
    """A text and whose it is: a prompt's id, or a creation's."""

    key: str
    text: str


class Args(CreateSettings):
    """Command line of the stage."""

    creations: Shards = Field(min_length=1, description="All creations of the iteration (Parquet).")
    pool: Path = Field(description="All prompts (Parquet).")
    previous: list[Path] = Field([], description="Prompts that earlier iterations created (Parquet).")
    held_out: list[Path] = Field([], description="Prompts that models are measured on (Parquet): not to be repeated.")
    prompts: Path = Field(description="Output: the prompts (Parquet).")
    ledger: Path = Field(description="Output: the creations that became no prompt (Parquet).")


def clean(text: str) -> str:
    """The task alone: without the tags, numbers, bullets, labels (`Task 9:`), headings and words of a chat (`Sure! Here
    is a new task:`) before it, in whatever order, without tags after it, and without quotation marks or emphasis around
    the whole. A list of tasks keeps its first number."""
    before, text = None, text.strip()
    while text != before and not is_numbered_list(text):
        before = text
        text = _TAIL.sub("", _LEAD.sub("", text)).strip()
        for opening, closing in _QUOTES:
            inner = text.removeprefix(opening).removesuffix(closing)
            if text == opening + inner + closing and opening not in inner and closing not in inner:
                text = inner.strip()
    return text


def fault(text: str, section: CreateSettings) -> Drop | None:
    """What is wrong with a cleaned text by itself."""
    if not text:
        return "empty", "no text"
    if len(text) < section.min_characters:
        return "short", f"{len(text)} characters, at least {section.min_characters}"
    if len(text) > section.max_characters:
        return "overlong", f"{len(text)} characters, limit {section.max_characters}"
    spaced = f" {' '.join(words(text))} "
    for keyword in section.keywords:
        if f" {' '.join(words(keyword))} " in spaced:
            return "keyword", f"has the word {keyword!r}"
    if found := _REFUSAL.match(text):
        return "refusal", f"begins with {found[0]!r}"
    if found := _ANSWER.search(text):
        return "answer", f"goes on with {found[0].strip()!r}"
    flaw = malformed(text)
    return ("malformed", flaw) if flaw else None


def is_numbered_list(text: str) -> bool:
    """Whether a text begins with a number and has the next one before a later line: models like to go on."""
    first, numbers = _NUMBER.match(text), [int(number) for number in _NUMBER.findall(text)]
    return bool(first) and numbers[0] + 1 in numbers


def malformed(text: str) -> str | None:
    """Why a text cannot be one task, in any language, or None."""
    if not regex.search(r"\p{L}", text):
        return "no letters"
    if _is_punctuation(text[0]):
        return f"starts with {text[0]!r}"
    if found := _ROLE.search(text):
        return f"has the chat role label {found[0].strip()!r}"
    if found := _ANOTHER.search(text):
        return f"has another task: {found[0].strip()!r}"
    if is_numbered_list(text):
        return "is a numbered list of tasks"
    return _repetition(text)


def _is_punctuation(character: str) -> bool:
    """Whether a character is punctuation or a symbol, but none that opens a phrase."""
    kind = unicodedata.category(character)
    return kind[0] in "PS" and kind not in ("Ps", "Pi", "Sc") and character not in "\"'`¿¡"


def _repetition(text: str) -> str | None:
    characters = Counter(regex.sub(r"\s", "", text))
    runs = len(words(text)) - SHINGLE + 1
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    character, times = characters.most_common(1)[0]
    if characters.total() >= FEW and times > REPEATED_CHARACTER * characters.total():
        return f"{times} of {characters.total()} characters are {character!r}"
    if runs >= FEW and (repeats := runs - len(shingles(text))) > REPEATED_SHINGLES * runs:
        return f"{repeats} of {runs} runs of {SHINGLE} words repeat an earlier one"
    if 3 * len(lines) >= FEW and (repeats := len(lines) - len(set(lines))) > REPEATED_LINES * len(lines):
        return f"{repeats} of {len(lines)} lines repeat an earlier one"
    return None


def duplicates(given: Sequence[str], new: Sequence[str]) -> dict[int, Match]:
    """The new texts that a given or an earlier new one equals but for case, white space and the like."""
    first: dict[str, int] = {}
    found: dict[int, Match] = {}
    for number, text in enumerate((*given, *new)):
        other = first.setdefault(folded(text), number)
        if other != number and number >= len(given):
            found[number - len(given)] = Match(other, 1.0)
    return found


def sift(creations: pl.DataFrame, known: list[Text], section: CreateSettings) -> tuple[list[Text], dict[str, Drop]]:
    """The creations that become prompts, with their cleaned text, and the others' reasons by id; each is in one.

    `creations` has `creation_id`, `text` and `finish_reason`; `known` are the user turns of all other prompts.
    """
    kept: list[Text] = []
    dropped: dict[str, Drop] = {}
    for key, text, finish in creations.sort("creation_id").select("creation_id", "text", "finish_reason").iter_rows():
        prompt = clean(answer_of(text))
        cut = (finish, "the generation did not end by itself") if finish != "stop" else None
        if drop := cut or fault(prompt, section):
            dropped[key] = drop
        else:
            kept.append(Text(key, prompt))
    filters: list[tuple[str, Callable[[list[str], list[str]], dict[int, Match]]]] = [
        ("duplicate", duplicates),
        ("near_duplicate", lambda given, new: near_duplicates(given, new, section.near_duplicate)),
        ("similar", lambda given, new: similar(given, new, section.max_similarity)),
    ]
    for reason, filter_ in filters:
        everything = [*known, *kept]
        matches = filter_([text for _, text in known], [text for _, text in kept])
        for number, (other, value) in matches.items():
            dropped[kept[number].key] = (reason, f"{value:.3f} to {everything[other].key}")
        kept = [text for number, text in enumerate(kept) if number not in matches]
    return kept, dropped


def user_turns(prompts: pl.DataFrame) -> list[Text]:
    """The text of each user turn, with the prompt's id."""
    return [
        Text(prompt, turn["content"])
        for prompt, messages in prompts.select("prompt_id", "messages").iter_rows()
        for turn in messages
        if turn["role"] == "user"
    ]


def _prompt(created: Text, source: str) -> dict[str, object]:
    messages = [{"role": "user", "content": created.text}]
    row = int(created.key.partition("-")[2])
    return {"prompt_id": prompt_id(messages), "messages": messages, "split": "train", "source": source, "row": row}


def _check_complete(keys: list[str], paths: list[Path]) -> None:
    """StageError unless the creations are of one iteration, each there once, numbered from 1 without a gap."""
    found = [tuple(map(int, key.split("-"))) for key in keys]
    steps = pairwise([(found[0][0], 0), *found]) if found else []
    for key, (before, after) in zip(keys, steps, strict=False):
        if after != (before[0], before[1] + 1):
            raise StageError(
                f"{paths[0]} and {len(paths) - 1} more files: creation {key} does not follow number {before[1]} of "
                f"iteration {before[0]}; give every shard of one iteration, each once"
            )


def main(args: Args) -> None:
    creations = artifacts.read(args.creations, CREATIONS, ["creation_id", "text", "finish_reason"])
    _check_complete(creations["creation_id"].sort().to_list(), args.creations)
    others = [args.pool, *args.previous, *args.held_out]
    known = user_turns(artifacts.read(others, PROMPTS, ["prompt_id", "messages"]))
    kept, dropped = sift(creations, known, args)
    assert len(kept) + len(dropped) == creations.height, "each creation is a prompt or in the ledger"
    source = str(args.creations[0].parent)  # not the shard: their number must not change the prompts
    prompts = [_prompt(text, source) for text in kept]
    ledger = [{"creation_id": key, "reason": why, "detail": detail} for key, (why, detail) in dropped.items()]
    origin = describe("filter_prompts", args, [*args.creations, *others])
    artifacts.write(frame(PROMPTS, prompts), args.prompts, PROMPTS, origin)
    artifacts.write(frame(CREATION_LEDGER, ledger), args.ledger, CREATION_LEDGER, origin)
    reasons = Counter(why for why, _ in dropped.values()).most_common()
    why = ", ".join(f"{count} {reason}" for reason, count in reasons) or "none"
    print(f"filter_prompts: {creations.height} creations -> {len(prompts)} prompts; dropped {why}", file=sys.stderr)


if __name__ == "__main__":
    run(Args, main)
