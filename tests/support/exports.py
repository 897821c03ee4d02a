"""Pairs and supervised examples to export, and what each layout makes of them."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from stages import export
from stages.contracts.artifacts import write
from stages.contracts.ids import prompt_id
from stages.contracts.schema import frame
from stages.tables import PAIRS
from tests.support.records import turn, turns

HOSTILE = 'one\ntwo\r\n"three" \\n {split} %s \u2028\u2029\x85 \U0001f600 \x00\x07\x1b[31m </s><|end|> {"a": 1}\n'
SINGLE, MULTI = turns(HOSTILE), turns("Hi", "Hello " + HOSTILE, "And?")
SYSTEM = [turn("system", "Be brief. " + HOSTILE), *turns("2024-01-01")]
GOOD, BAD = "good " + HOSTILE, "bad \u2028 " + HOSTILE
KEYS = ["actor-1-single-0", "actor-1-system-0", "judge-1-multi-0"]
"""In the order of the table."""
PROMPTS = dict(zip(KEYS, (SINGLE, SYSTEM, MULTI), strict=True))
CHOSEN, REJECTED = [turn("assistant", GOOD)], [turn("assistant", BAD)]
SHAREGPT_SIDES = {"chosen": {"from": "gpt", "value": GOOD}, "rejected": {"from": "gpt", "value": BAD}}


def pair_row(key: str, prompt: list[dict[str, str]], **more: Any) -> dict[str, Any]:
    judge = key.startswith("judge")
    return {
        "pair_id": key, "kind": key.split("-")[0], "prompt_id": prompt_id(prompt), "prompt": prompt,
        "chosen": CHOSEN, "rejected": REJECTED, "score_chosen": None if judge else 4.5,
        "score_rejected": None if judge else 1.0, "prompt_token_ids": [1], "chosen_token_ids": [2],
        "rejected_token_ids": [3], "chosen_candidate_id": "c", "rejected_candidate_id": "r",
    } | more  # fmt: skip


def write_pairs(path: Path, rows: list[dict[str, Any]]) -> Path:
    write(frame(PAIRS, rows), path, PAIRS, {})
    return path


def exported(source: Path, layout: str, *words: object) -> Path:
    """The folder that the command writes."""
    output = source.parent / f"to-{layout}-{len(list(source.parent.iterdir()))}"
    export.main(export.parsed([str(source), "--to", layout, "--output", str(output), *map(str, words)]))
    return output


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())  # type: ignore[no-any-return]


def sharegpt(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[message["role"]], "value": message["content"]} for message in messages]


def h4_row(key: str) -> dict[str, Any]:
    prompt, judge = PROMPTS[key], key.startswith("judge")
    return {
        "prompt": prompt[-1]["content"], "prompt_id": prompt_id(prompt), "pair_id": key,
        "chosen": [*prompt, *CHOSEN], "rejected": [*prompt, *REJECTED], "messages": [*prompt, *CHOSEN],
        "score_chosen": None if judge else 4.5, "score_rejected": None if judge else 1.0,
    }  # fmt: skip


def full_row(key: str) -> dict[str, Any]:
    return {"pair_id": key, "chosen": [*PROMPTS[key], *CHOSEN], "rejected": [*PROMPTS[key], *REJECTED]}


def nemo_row(key: str) -> dict[str, Any]:
    ranked = [{"rank": 0, "completion": CHOSEN}, {"rank": 1, "completion": REJECTED}]
    return {"pair_id": key, "context": PROMPTS[key], "completions": ranked}


PAIR_FILES = {
    "trl": (
        "train.parquet",
        [{"pair_id": k, "prompt": PROMPTS[k], "chosen": CHOSEN, "rejected": REJECTED} for k in KEYS],
    ),
    "h4": ("data/train_prefs-00000-of-00001.parquet", [h4_row(key) for key in KEYS]),
    "nemo-rl": ("train.jsonl", [nemo_row(key) for key in KEYS]),
    "openrlhf": ("train.parquet", [full_row(key) for key in KEYS]),
    "llama-factory": (
        "train.parquet",
        [{"pair_id": key, "conversations": sharegpt(PROMPTS[key]), **SHAREGPT_SIDES} for key in KEYS],
    ),
    "open-instruct": ("train.parquet", [full_row(key) for key in KEYS]),
}
"""What each layout makes of the first iteration: the file, and its rows."""


def chat_row(key: str, prompt: list[dict[str, str]]) -> dict[str, Any]:
    return {"example_id": key, "messages": [*prompt, *CHOSEN]}


EXAMPLES = {"eft-1": SINGLE, "ift-1": SYSTEM}
CHATS = [chat_row(*example) for example in EXAMPLES.items()]
EXAMPLE_FILES = {
    "trl": ("train.parquet", [{"example_id": k, "prompt": p, "completion": CHOSEN} for k, p in EXAMPLES.items()]),
    "h4": (
        "data/train_sft-00000-of-00001.parquet",
        [{"prompt": p[-1]["content"], "prompt_id": prompt_id(p), **chat_row(k, p)} for k, p in EXAMPLES.items()],
    ),
    "nemo-rl": ("train.jsonl", CHATS),
    "openrlhf": ("train.parquet", CHATS),
    "llama-factory": (
        "train.parquet",
        [{"example_id": k, "conversations": sharegpt([*p, *CHOSEN])} for k, p in EXAMPLES.items()],
    ),
    "open-instruct": ("train.parquet", CHATS),
}
