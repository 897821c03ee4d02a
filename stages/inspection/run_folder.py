"""The folder of a run: where its tables lie, which stage puts them there, and rows of them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from stages import tables
from stages.contracts.errors import StageError
from stages.contracts.schema import Table
from stages.inspection.parquet import described, files, rows


class Place(NamedTuple):
    """A table of a run: where it lies is its name, `NAME.parquet` for one file, `NAME` for a folder of shards."""

    table: Table
    stage: str
    part: str = ""
    """The part of an iteration that it belongs to, for parts that not every iteration has."""


EFT = 0
"""What comes before the loop counts as iteration 0; it lies in `eft/`."""
OF_AN_ITERATION = {
    "creations": Place(tables.CREATIONS, "create", "create"),
    "created_prompts.parquet": Place(tables.PROMPTS, "filter_prompts", "create"),
    "creation_ledger.parquet": Place(tables.CREATION_LEDGER, "filter_prompts", "create"),
    "prompts.parquet": Place(tables.PROMPTS, "select"),
    "candidate_prompts": Place(tables.CANDIDATE_PROMPTS, "candidates"),
    "candidates": Place(tables.CANDIDATES, "candidates"),
    "verifications": Place(tables.VERIFICATIONS, "verify", "verify"),
    "judge_prompts": Place(tables.JUDGE_PROMPTS, "judge"),
    "judgements": Place(tables.JUDGEMENTS, "judge"),
    "votes.parquet": Place(tables.VOTES, "score"),
    "scores.parquet": Place(tables.SCORES, "score"),
    "meta_judge_prompts": Place(tables.META_JUDGE_PROMPTS, "meta_judge", "meta_judge"),
    "verdicts": Place(tables.VERDICTS, "meta_judge", "meta_judge"),
    "battles.parquet": Place(tables.BATTLES, "rate", "meta_judge"),
    "ratings.parquet": Place(tables.RATINGS, "rate", "meta_judge"),
    "pairs.parquet": Place(tables.PAIRS, "pairs"),
    "pair_ledger.parquet": Place(tables.PAIR_LEDGER, "pairs"),
    "reference_logprobs.parquet": Place(tables.REFERENCE_LOGPROBS, "reference_logprobs"),
    "train/metrics.parquet": Place(tables.TRAIN_METRICS, "train"),
    "train/speed.parquet": Place(tables.TRAIN_SPEED, "train"),
    "train/ledger.parquet": Place(tables.TRAIN_LEDGER, "train"),
    "train/samples.parquet": Place(tables.VALIDATION_SAMPLES, "train"),
}
OF_EFT = {
    "prompts.parquet": Place(tables.PROMPTS, "ranked"),
    "tests.parquet": Place(tables.JUDGE_TESTS, "ranked"),
    "answers": Place(tables.RANKED, "ranked"),
    "judge_prompts": Place(tables.JUDGE_PROMPTS, "judge"),
    "judgements": Place(tables.JUDGEMENTS, "judge"),
    "votes.parquet": Place(tables.VOTES, "score"),
    "scores.parquet": Place(tables.SCORES, "score"),
    "examples.parquet": Place(tables.SFT_EXAMPLES, "eft"),
    "ledger.parquet": Place(tables.EFT_LEDGER, "eft"),
}
OF_THE_POOL = {
    "pool.parquet": Place(tables.PROMPTS, "ingest"),
    "ingest_ledger.parquet": Place(tables.INGEST_LEDGER, "ingest"),
    "held_out.parquet": Place(tables.PROMPTS, "ingest", "held_out"),
    "held_out_ledger.parquet": Place(tables.INGEST_LEDGER, "ingest", "held_out"),
}


@dataclass(frozen=True)
class RunFolder:
    """A run, or some of its iterations. A file that cannot be read counts as one without rows, and is remembered: who
    looks for what went wrong wants to see the rest."""

    path: Path
    iterations: tuple[int, ...]
    problems: dict[str, None] = field(default_factory=dict)
    """A sentence on each file that could not be read, in order, each once."""

    @property
    def has_eft(self) -> bool:
        """Whether model 0 comes of evaluation fine-tuning."""
        return (self.path / "eft").is_dir()

    def folder(self, iteration: int) -> Path:
        """Where an iteration lies."""
        return self.path / (f"iter-{iteration}" if iteration else "eft")

    def has(self, iteration: int, name: str) -> bool:
        """Whether an iteration has a table."""
        return bool(files(self.folder(iteration) / name))

    def rows(
        self, iteration: int, name: str, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> pl.DataFrame:
        """Rows of a table of an iteration; none where it has no such table."""
        place = (OF_AN_ITERATION if iteration else OF_EFT)[name]
        return self.rows_of(f"{self.folder(iteration).name}/{name}", place.table, columns, where)

    def rows_of(
        self, place: str, table: Table, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> pl.DataFrame:
        """Rows of a table anywhere in the run; none where there is no such table."""
        parts = [rows([], table, columns)]
        for path in files(self.path / place):
            try:
                parts.append(rows([path], table, columns, where))
            except StageError as error:
                self.problems[str(error)] = None
        return pl.concat(parts)

    def provenance(self, path: Path) -> dict[str, Any]:
        """What a file says of its origin; nothing where it cannot be read."""
        try:
            return described(path).provenance
        except StageError as error:
            self.problems[str(error)] = None
            return {}

    def summary(self, model: str) -> pl.DataFrame:
        """The headline numbers of a model, rows of table `summary`; none where it is not evaluated."""
        return self.rows_of(f"evaluation/{model}/summary.parquet", tables.SUMMARY)

    def evaluated(self) -> list[str]:
        """The evaluated models by name, `base` first."""
        return by_number(path.parent.name for path in self.path.glob("evaluation/*/summary.parquet"))


def by_number(names: Iterable[str]) -> list[str]:
    """Names of models in their order: `base` and others without a number first."""
    return sorted(names, key=lambda name: (int(name) if name.isdecimal() else -1, name))


def found(path: Path) -> RunFolder | None:
    """The run of a folder: all its iterations, or, if the folder is that of an iteration, this one alone. None for a
    folder that is neither."""
    whole = path.resolve()
    if path.is_dir() and (number := _number(whole)):
        return RunFolder(path.parent if path.name == whole.name else whole.parent, (number,))
    numbers = tuple(sorted(number for inner in path.glob("iter-*") if (number := _number(inner))))
    return RunFolder(path, numbers) if numbers or (path / "prompts/pool.parquet").is_file() else None


def opened(path: Path) -> RunFolder:
    """As `found`. StageError for a folder that is no run."""
    if run := found(path):
        return run
    if not path.exists():
        raise StageError(f"{path}: no such file or folder")
    raise StageError(f"{path}: not the folder of a run: it has neither iter-1/ nor prompts/pool.parquet")


def _number(folder: Path) -> int:
    """Of an iteration's folder its number, else 0."""
    name = re.fullmatch(r"iter-([1-9]\d*)", folder.name)
    return int(name[1]) if name else 0
