"""The files of a run, as the report reads them; which were read is remembered for the page's provenance."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from stages.contracts.artifacts import provenance, read
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
    files: dict[Path, None] = field(default_factory=dict)
    """What was read, in order, each file once."""

    def of_models(self, name: str) -> dict[int, Path]:
        """The paths `evaluation/<model>/<name>` by model; with EFT also of the base model before it."""
        models = range(BASE_MODEL if self.eft else 0, self.iterations + 1)
        return {model: self.run / "evaluation" / model_name(model) / name for model in models}

    def of_iterations(self, name: str) -> dict[int, Path]:
        """The paths `iter-<t>/<name>` by iteration."""
        return {number: self.run / f"iter-{number}" / name for number in range(1, self.iterations + 1)}

    def in_folder(self, iteration: int, folder: str) -> list[Path]:
        """The files of a folder of an iteration. Raises StageError if there are none."""
        place = self.run / f"iter-{iteration}" / folder
        if paths := sorted(place.glob("*.parquet")):
            return paths
        raise StageError(f"{place}: no Parquet files; check --run and --iterations")

    def one(self, path: Path, table: Table, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of one file."""
        self.files[path] = None
        return read(path, table, columns)

    def those(self, paths: Sequence[Path], table: Table) -> pl.DataFrame:
        """The rows of some files."""
        return pl.concat([frame(table, []), *(self.one(path, table) for path in paths)])

    def settings(self, path: Path) -> dict[str, Any]:
        """The settings that a file was made with. Raises StageError if it does not say."""
        found: dict[str, Any] | None = provenance(path).get("settings")
        if found is None:
            raise StageError(f"{path}: does not say with which settings it was made; make it again with its stage")
        return found

    def every(self, name: str, table: Table, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of `iter-<t>/<name>` of every iteration that has this file, with a column `iteration`."""
        parts = [frame(table, []).select(columns or list(table.columns)).with_columns(iteration=pl.lit(0, pl.Int64))]
        for iteration in self._having(name.removesuffix(".parquet")):
            part = self.one(self.run / f"iter-{iteration}" / name, table, columns)
            parts.append(part.with_columns(iteration=pl.lit(iteration, pl.Int64)))
        return pl.concat(parts)

    def models(self, name: str, table: Table, columns: Sequence[str]) -> pl.DataFrame:
        """The rows of `evaluation/<model>/<name>` of every model, with a column `model`."""
        parts = [frame(table, []).select(columns).with_columns(model=pl.lit(0, pl.Int64))]
        for model, path in self.of_models(name).items():
            parts.append(self.one(path, table, columns).with_columns(model=pl.lit(model, pl.Int64)))
        return pl.concat(parts)

    def every_shard(self, folder: str, table: Table, columns: Sequence[str]) -> pl.DataFrame:
        """Some columns of all files of a folder in every iteration that has it, with a column `iteration`."""
        parts = [frame(table, []).select(columns).with_columns(iteration=pl.lit(0, pl.Int64))]
        for iteration in self._having(folder):
            rows = self.shards(iteration, folder, table, columns)
            parts.append(rows.with_columns(iteration=pl.lit(iteration, pl.Int64)))
        return pl.concat(parts)

    def shards(
        self, iteration: int, folder: str, table: Table, columns: Sequence[str], ids: list[str] | None = None
    ) -> pl.DataFrame:
        """The rows of some prompts (of all without `ids`) in all files of a folder, read file by file: together they
        may be very large.

        Raises StageError if there are no files of an iteration that has this folder.
        """
        parts = [frame(table, []).select(columns)]
        if iteration in self._having(folder):
            wanted = pl.lit(True) if ids is None else pl.col("prompt_id").is_in(ids)
            parts += [self.one(path, table, columns).filter(wanted) for path in self.in_folder(iteration, folder)]
        return pl.concat(parts)

    def _having(self, name: str) -> Sequence[int]:
        if name in META_JUDGED:
            return self.meta_iterations
        return self.create_iterations if name in CREATED else range(1, self.iterations + 1)
