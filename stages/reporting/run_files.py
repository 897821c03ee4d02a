"""The files of a run, as the report reads them; which were read is remembered for the page's provenance."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from stages.contracts.artifacts import read
from stages.contracts.errors import StageError
from stages.contracts.schema import Table, frame
from stages.reporting.figures import BASE_MODEL, model_name

META_JUDGED = ("verdicts", "battles", "ratings")
"""Files and folders of the iterations that compare judgements."""
CREATED = ("created_prompts", "creation_ledger")
"""Files of the iterations that create prompts."""


@dataclass(frozen=True)
class Source:
    """The folder of a run. Iterations outside `meta_iterations` compared no judgements, those outside
    `create_iterations` created no prompts, and without `eft` there was no fine-tuning before the loop: if the folder
    holds such tables all the same, they are left over from another configuration and not read."""

    run: Path
    iterations: int
    meta_iterations: Sequence[int] = ()
    create_iterations: Sequence[int] = ()
    eft: bool = False
    files: list[Path] = field(default_factory=list)

    def one(self, path: Path, table: Table, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of one file."""
        self.files.append(path)
        return read(path, table, columns)

    def every(self, name: str, table: Table, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of `iter-<t>/<name>` of every iteration that has this file, with a column `iteration`."""
        parts = [frame(table, []).select(columns or list(table.columns)).with_columns(iteration=pl.lit(0, pl.Int64))]
        for iteration in self._having(name.removesuffix(".parquet")):
            part = self.one(self.run / f"iter-{iteration}" / name, table, columns)
            parts.append(part.with_columns(iteration=pl.lit(iteration, pl.Int64)))
        return pl.concat(parts)

    def models(self, name: str, table: Table, columns: Sequence[str]) -> pl.DataFrame:
        """The rows of `evaluation/<model>/<name>` of every model, with a column `model`; with EFT also of the base
        model before it."""
        parts = [frame(table, []).select(columns).with_columns(model=pl.lit(0, pl.Int64))]
        for model in range(BASE_MODEL if self.eft else 0, self.iterations + 1):
            path = self.run / "evaluation" / model_name(model) / name
            parts.append(self.one(path, table, columns).with_columns(model=pl.lit(model, pl.Int64)))
        return pl.concat(parts)

    def shards(self, iteration: int, folder: str, table: Table, columns: Sequence[str], ids: list[str]) -> pl.DataFrame:
        """The rows of some prompts in all files of a folder, read file by file: together they may be very large.

        Raises StageError if there are no files of an iteration that has this folder.
        """
        parts = [frame(table, []).select(columns)]
        if iteration in self._having(folder):
            place = self.run / f"iter-{iteration}" / folder
            paths = sorted(place.glob("*.parquet"))
            if not paths:
                raise StageError(f"{place}: no Parquet files (expected {table.name}); check --run and --iterations")
            parts += [self.one(path, table, columns).filter(pl.col("prompt_id").is_in(ids)) for path in paths]
        return pl.concat(parts)

    def _having(self, name: str) -> Sequence[int]:
        if name in META_JUDGED:
            return self.meta_iterations
        return self.create_iterations if name in CREATED else range(1, self.iterations + 1)
