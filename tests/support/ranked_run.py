"""Ranked answers and OpenAssistant trees as records, and the stage `ranked` from its sources to its tables."""

import gzip
import json
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Any

from stages import ranked as stage
from stages.contracts.artifacts import read
from stages.contracts.ids import prompt_id
from stages.ranked import use_of
from stages.tables import JUDGE_TESTS, PROMPTS, RANKED, RANKED_LEDGER, SFT_EXAMPLES
from tests.support.records import turn

Record = dict[str, Any]


def plain(prompt: str, *ranks: int, **fields: Any) -> Record:
    answers = [{"text": f"answer {number}", "rank": rank} for number, rank in enumerate(ranks)]
    return {"prompt": prompt, "answers": answers, **fields}


def message(text: str, role: str = "assistant", **fields: Any) -> Record:
    """A message as OpenAssistant exports it."""
    origin = {"message_id": text, "parent_id": None, "user_id": None, "synthetic": False, "labels": {}}
    state = {"lang": "en", "review_count": 3, "review_result": True, "deleted": False, "rank": None, "replies": []}
    return {**origin, **state, "text": text, "role": role, **fields}


def tree(text: str, *replies: Record, state: str | None = "ready_for_export", **fields: Any) -> Record:
    prompt = message(text, "prompter", replies=list(replies), **fields)
    return {"message_tree_id": text, "tree_state": state, "prompt": prompt, "origin": None}


def named(use: str) -> Callable[[int], str]:
    """The n-th prompt text whose hash gives it this use, where three tenths each are for test and IFT."""
    texts = (f"{use} {number}" for number in count())
    mine = (text for text in texts if use_of(prompt_id([turn("user", text)]), 0.3, 0.3) == use)
    return list(islice(mine, 8)).__getitem__


EFT, TEST, IFT = named("eft"), named("test"), named("ift")
BASE = [plain(EFT(0), 0, 1), plain(TEST(0), 0, 1), plain(IFT(0), 0, 1)]
"""One prompt for each use, so that the gate is passed."""


class Run:
    """The stage from its sources to its tables."""

    def __init__(self, folder: Path, *sources: Path, shards: int = 1, **settings: Any) -> None:
        folder = folder / "out"
        answers = [folder / f"answers-{shard}.parquet" for shard in range(shards)]
        outputs = {name: folder / f"{name}.parquet" for name in ("prompts", "tests", "ift", "ledger")}
        settings = {"test_fraction": 0.3, "ift_fraction": 0.3, **settings}
        stage.main(stage.Args(sources=list(sources), answers=answers, **outputs, **settings))
        self.prompts = read(outputs["prompts"], PROMPTS)
        self.shards = [read(path, RANKED) for path in answers]
        self.answers = read(answers, RANKED)
        self.tests = read(outputs["tests"], JUDGE_TESTS)
        self.ift = read(outputs["ift"], SFT_EXAMPLES)
        self.ledger = read(outputs["ledger"], RANKED_LEDGER)

    def reasons(self, row: int) -> dict[str, str]:
        return {reason: detail for at, reason, detail in self.ledger["row", "reason", "detail"].rows() if at == row}


def jsonl(folder: Path, *records: Any, name: str = "ranked.jsonl") -> Path:
    path = folder / name
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path
