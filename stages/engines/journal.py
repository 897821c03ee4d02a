"""Completions that survive a kill: small Parquet files in a hidden folder beside the output, as they come.

The folder's name is a digest of everything that decides the completions, so a rerun continues its own work and never
picks up other work.
"""

import json
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from stages.contracts.errors import StageError
from stages.contracts.files import atomic, load_json
from stages.contracts.seals import is_sealed, seal
from stages.engines.protocol import Completion

CHUNK_ROWS = 100
CHUNK_SECONDS = 5.0
COMPLETION = pl.Schema(
    {
        "request_id": pl.String(),
        "text": pl.String(),
        "token_ids": pl.List(pl.Int32()),
        "finish_reason": pl.String(),
        "logprob": pl.Float64(),
        "error": pl.String(),
        "refused": pl.Boolean(),
    }
)


class Journal:
    """The journal of the work on `output` whose digest is `key`. Those of other work on it are removed."""

    def __init__(self, output: Path, key: str) -> None:
        self.folder = output.parent / f".{output.name}.journal-{key}"
        remove_journals(output, keep=self.folder)

    def completions(self) -> pl.DataFrame:
        """What is there, each request once; failed ones are left out, so that they are tried again. A part that is not
        as it was written, as a power cut can leave one, is removed: its requests are asked again."""
        done = pl.concat([pl.DataFrame(schema=COMPLETION), *self._parts()]).filter(pl.col("finish_reason") != "error")
        return done.unique("request_id", keep="first", maintain_order=True)

    def recorded(self, completions: Iterable[Completion]) -> Iterator[pl.DataFrame]:
        """Completions in chunks, each saved before it is yielded; also what came before an exception."""
        chunk: list[Completion] = []
        saved = time.monotonic()
        try:
            for completion in completions:
                chunk.append(completion)
                if len(chunk) >= CHUNK_ROWS or time.monotonic() - saved > CHUNK_SECONDS:
                    yield self._save(chunk)
                    chunk, saved = [], time.monotonic()
        finally:
            rest = self._save(chunk) if chunk else None
        if rest is not None:
            yield rest

    def facts(self) -> dict[str, Any]:
        """What was kept of the engines that wrote here."""
        path = self.folder / "engine.json"
        return load_json(path, "") if path.exists() else {}

    def keep(self, facts: dict[str, Any]) -> None:
        """Keep facts of the engine; what holds only if it held for all that wrote here is false from then on."""
        known = self.facts()
        merged = {name: value and known.get(name, True) for name, value in facts.items()}
        with atomic(self.folder / "engine.json") as partial:
            partial.write_text(json.dumps(merged), encoding="utf-8")

    def _parts(self) -> Iterator[pl.DataFrame]:
        for path in sorted(self.folder.glob("part-*.parquet")):
            if _is_whole(path):
                yield pl.read_parquet(path, glob=False).match_to_schema(COMPLETION, missing_columns="insert")
            else:
                print(f"{path}: damaged; its requests are asked again", file=sys.stderr)
                path.unlink()

    def _save(self, chunk: list[Completion]) -> pl.DataFrame:
        data = pl.DataFrame([asdict(completion) for completion in chunk], schema=COMPLETION)
        numbers = [int(path.stem.removeprefix("part-")) for path in self.folder.glob("part-*.parquet")]
        with atomic(self.folder / f"part-{max(numbers, default=-1) + 1:05d}.parquet") as partial:
            pq.write_table(data.to_arrow(), partial)  # polars would name neither the file nor the error's number
            seal(partial)
        return data


def _is_whole(path: Path) -> bool:
    try:
        return is_sealed(path)
    except StageError:
        return False


def remove_journals(output: Path, keep: Path | None = None) -> None:
    """Delete the journals of `output`, except `keep`."""
    for folder in output.parent.glob(f".{output.name}.journal-*"):
        if folder != keep:
            shutil.rmtree(folder)
