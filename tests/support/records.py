"""Messages, prompts and candidates as many tests write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.contracts.artifacts import read, write
from stages.contracts.ids import prompt_id
from stages.contracts.schema import frame
from stages.tables import CANDIDATES, PROMPTS

Turn = dict[str, str]


def turn(role: str, content: str) -> Turn:
    return {"role": role, "content": content}


def turns(*texts: str) -> list[Turn]:
    """A conversation that the user begins."""
    return [turn(("user", "assistant")[number % 2], text) for number, text in enumerate(texts)]


def prompt_row(messages: list[Turn], row: int = 1, split: str = "train", **more: Any) -> dict[str, Any]:
    return {"prompt_id": prompt_id(messages), "messages": messages, "split": split, "source": "s", "row": row, **more}


def write_prompts(path: Path, prompts: Sequence[list[Turn]], split: str = "train") -> Path:
    rows = [prompt_row(messages, number, split) for number, messages in enumerate(prompts, 1)]
    write(frame(PROMPTS, rows), path, PROMPTS, {})
    return path


def candidate_row(prompt: str, sample: int, text: str, finish_reason: str = "stop") -> dict[str, Any]:
    keys = {"prompt_id": prompt, "candidate_id": f"{prompt}-1-{sample}", "iteration": 1, "sample": sample, "seed": 0}
    return {**keys, "text": text, "token_ids": [], "tokens": 0, "finish_reason": finish_reason}


def write_candidates(prompts: Path, texts: Sequence[str], reasons: Sequence[str]) -> Path:
    """One candidate for each of the first prompts, in a file beside theirs."""
    keys = read(prompts, PROMPTS)["prompt_id"]
    rows = [candidate_row(key, 0, text, reason) for key, text, reason in zip(keys, texts, reasons, strict=False)]
    path = prompts.parent / "given_candidates.parquet"
    write(frame(CANDIDATES, rows), path, CANDIDATES, {})
    return path
