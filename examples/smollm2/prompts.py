"""Make the prompts: English requests with one to three instructions that can be checked.

    python -m examples.smollm2.prompts --output results/smollm2/prompts

Three kinds of generalisation are held out from training: topics (all of `MEASURED`), pairs of kinds that never meet in
a training prompt (`held_out_pair`), and whole kinds (`TRANSFER`). The same seed gives the same files.
"""

import argparse
import hashlib
import json
import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from examples.smollm2.instructions import CLASHES, FORMS, HINTS, KINDS, Instruction, draw
from examples.smollm2.topics import MEASURED, TASKS, TRAINED

TRANSFER = (
    "keywords:letter_frequency",
    "length_constraints:nth_paragraph_first_word",
    "detectable_format:number_highlighted_sections",
    "change_case:capital_word_frequency",
)
"""Kinds of which no training prompt has any."""
LEARNT = tuple(kind for kind in KINDS if kind not in TRANSFER)
SIZES = (1, 1, 2, 2, 2, 3)
"""Numbers of instructions, as often as they are drawn."""
EMPTY = ("a", "an", "at", "by", "for", "from", "how", "in", "of", "on", "the", "to", "are", "is",
         "learning", "making", "taking", "moving", "another", "going", "less", "good", "old")  # fmt: skip
"""Words of topics that tell nothing of the subject."""
Row = dict[str, Any]


def held_out_pair(first: str, second: str) -> bool:
    """Whether two kinds may meet only where it is measured: a fifth of the pairs, by hash."""
    name = " ".join(sorted((first, second)))
    return hashlib.sha256(name.encode()).digest()[0] % 5 == 0


def kinds(size: int, pool: Sequence[str], rng: random.Random, trained: bool) -> list[str]:
    """So many kinds that go together; in training none that are held out as a pair."""
    while True:
        chosen = rng.sample(pool, size)
        pairs = list(combinations(chosen, 2))
        if any(frozenset(pair) in CLASHES for pair in pairs):
            continue
        if not (trained and any(held_out_pair(*pair) for pair in pairs)):
            return chosen


def prompt(topic: str, chosen: Sequence[str], rng: random.Random, trained: bool) -> Row:
    """A request about a topic with an instruction of each kind, in the form of IFEval's data; in training also with the
    checks of what is expected of any answer."""
    instructions = [draw(kind, rng) for kind in chosen]
    words = [rng.choice(TASKS).format(topic), *(one.text for one in instructions)]
    checks = [*instructions, *expected(topic, chosen)] if trained else instructions
    hints = [HINTS[one.kind](topic, one.arguments) for one in instructions if one.kind in HINTS] if trained else []
    return {
        **({"sampling_hint": f"For example: {' '.join(hints)}"} if hints else {}),
        "prompt": " ".join(words),
        "instruction_id_list": [one.kind for one in checks],
        "kwargs": [one.arguments for one in checks],
    }


def subject(topic: str) -> list[str]:
    """Beginnings of the words of which an answer on a topic has at least one."""
    words = [word for word in topic.lower().split() if word not in EMPTY]
    return [word.removesuffix("s") if len(word) < 5 else word[: max(4, len(word) - 3)] for word in words]


def expected(topic: str, chosen: Sequence[str]) -> list[Instruction]:
    """What an answer should be although the prompt does not say so."""
    allowed = sorted({form for kind in chosen for form in FORMS.get(kind, [])})
    return [
        Instruction("implicit:on_topic", "", {"words": subject(topic)}),
        Instruction("implicit:plain_form", "", {"allowed": allowed}),
        Instruction("implicit:no_repetition", "", {}),
    ]


def prompts(count: int, topics: Sequence[str], seed: str, trained: bool, pool: Sequence[str] = LEARNT) -> list[Row]:
    """So many different prompts."""
    rng = random.Random(seed)
    found: dict[str, Row] = {}
    while len(found) < count:
        row = prompt(rng.choice(topics), kinds(rng.choice(SIZES), pool, rng, trained), rng, trained)
        found.setdefault(row["prompt"], row)
    return list(found.values())


def transfer(count: int, seed: str) -> list[Row]:
    """Prompts about measured topics with a kind that is never trained, alone or beside one that is."""
    rng = random.Random(seed)
    found: dict[str, Row] = {}
    while len(found) < count:
        chosen = [rng.choice(TRANSFER)]
        if rng.random() < 0.5:
            chosen.append(rng.choice([kind for kind in LEARNT if frozenset((kind, chosen[0])) not in CLASHES]))
        row = prompt(rng.choice(MEASURED), chosen, rng, trained=False)
        found.setdefault(row["prompt"], row)
    return list(found.values())


def write(rows: Sequence[Row], path: Path) -> None:
    """One prompt a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Write `train.jsonl` and `held_out.jsonl`; a quarter of the latter is about kinds that are never trained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the files")
    parser.add_argument("--train", type=int, default=2000, help="training prompts")
    parser.add_argument("--held-out", type=int, default=300, help="held-out prompts")
    options = parser.parse_args()
    known = 3 * options.held_out // 4
    held_out = prompts(known, MEASURED, "measured", trained=False) + transfer(options.held_out - known, "transfer")
    write(prompts(options.train, TRAINED, "trained", trained=True), options.output / "train.jsonl")
    write(held_out, options.output / "held_out.jsonl")


if __name__ == "__main__":
    main()
