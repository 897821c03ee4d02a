"""Judgements and verdicts as rows, and tables dealt over several files."""

from pathlib import Path
from typing import Any

from stages.contracts.artifacts import write
from stages.contracts.schema import Table, frame

Row = dict[str, Any]


def completion(text: str, finish_reason: str = "stop", logprob: float | None = None) -> Row:
    """What an engine adds to the keys of a row."""
    said = {"seed": 1, "text": text, "token_ids": [1, 2], "tokens": 2}
    return {**said, "finish_reason": finish_reason, "logprob": logprob}


def judgements(texts: dict[str, list[str]], finish_reason: str = "stop") -> list[Row]:
    """Candidates are named `<prompt>-<sample>`."""
    return [
        {
            "prompt_id": name.split("-")[0],
            "candidate_id": name,
            "vote": vote,
            "judge": "policy",
            **completion(text, finish_reason),
        }
        for name, values in texts.items()
        for vote, text in enumerate(values)
    ]


def saved(folder: Path, name: str, table: Table, rows: list[Row], parts: int = 1) -> list[Path]:
    """The rows dealt over so many files; rows of one prompt may be in several."""
    paths = [folder / f"{name}-{part}-of-{parts}.parquet" for part in range(parts)]
    for part, path in enumerate(paths):
        write(frame(table, rows[part::parts]), path, table, {})
    return paths
