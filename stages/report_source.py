"""The files of a run, as the report reads them; which were read is remembered for the page's provenance."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from stages.artifacts import Table, frame, read
from stages.errors import StageError
from stages.figures import BASE_MODEL, model_name
from stages.tables import BATTLES, RATINGS, VERDICTS

META_TABLES = (VERDICTS, BATTLES, RATINGS)
"""Tables of the iterations that compare judgements."""


@dataclass(frozen=True)
class Source:
    """The folder of a run. In iterations outside `meta_iterations` no judgements were compared: if the folder holds
    such tables of them all the same, they are left over from another configuration and not read."""

    run: Path
    iterations: int
    meta_iterations: Sequence[int]
    files: list[Path] = field(default_factory=list)

    def one(self, path: Path, table: Table, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of one file."""
        self.files.append(path)
        return read(path, table, columns)

    def every(
        self, name: str, table: Table, columns: Sequence[str] | None = None, optional: bool = False
    ) -> pl.DataFrame:
        """The rows of `iter-<t>/<name>` of every iteration that has this table, with a column `iteration`.

        Raises StageError where a file is missing that is not `optional`.
        """
        parts = [frame(table, []).select(columns or list(table.columns)).with_columns(iteration=pl.lit(0, pl.Int64))]
        for iteration in self._having(table):
            path = self.run / f"iter-{iteration}" / name
            if not optional or path.exists():
                part = self.one(path, table, columns)
                parts.append(part.with_columns(iteration=pl.lit(iteration, pl.Int64)))
        return pl.concat(parts)

    def models(self, name: str, table: Table, columns: Sequence[str]) -> pl.DataFrame:
        """The rows of `evaluation/<model>/<name>` of every model, with a column `model`; the base model was evaluated
        only where the loop starts with EFT."""
        parts = [frame(table, []).select(columns).with_columns(model=pl.lit(0, pl.Int64))]
        for model in range(BASE_MODEL, self.iterations + 1):
            path = self.run / "evaluation" / model_name(model) / name
            if model != BASE_MODEL or path.exists():
                parts.append(self.one(path, table, columns).with_columns(model=pl.lit(model, pl.Int64)))
        return pl.concat(parts)

    def shards(self, iteration: int, folder: str, table: Table, columns: Sequence[str], ids: list[str]) -> pl.DataFrame:
        """The rows of some prompts in all files of a folder, read file by file: together they may be very large.

        Raises StageError if there are no files of an iteration that has this table.
        """
        parts = [frame(table, []).select(columns)]
        if iteration in self._having(table):
            place = self.run / f"iter-{iteration}" / folder
            paths = sorted(place.glob("*.parquet"))
            if not paths:
                raise StageError(f"{place}: no Parquet files (expected {table.name}); check --run and --iterations")
            parts += [self.one(path, table, columns).filter(pl.col("prompt_id").is_in(ids)) for path in paths]
        return pl.concat(parts)

    def _having(self, table: Table) -> list[int]:
        every = range(1, self.iterations + 1)
        return [t for t in every if table not in META_TABLES or t in self.meta_iterations]
