"""Parquet files as they lie there: whatever version wrote them, finished run or not.

Stages read their inputs through `contracts.artifacts`, which refuses a file that lacks a column. Here a column that a
file lacks is null, and a file that is not there has no rows: who inspects wants to see what there is.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from stages.contracts.artifacts import PROVENANCE_KEY, TABLE_KEY
from stages.contracts.errors import StageError
from stages.contracts.schema import Table, frame
from stages.contracts.seals import again, is_sealed


class Described(NamedTuple):
    """What a file says of itself."""

    schema: pa.Schema
    rows: int
    table: str
    """Name of the table; empty where the file names none."""
    provenance: dict[str, Any]


def described(path: Path) -> Described:
    """Schema, size, table and provenance. StageError for what is no Parquet file, or has changed since it was written;
    files of versions that sealed none are taken as they are."""
    is_sealed(path)
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
        metadata = schema.metadata or {}
        origin = json.loads(metadata.get(PROVENANCE_KEY, b"{}"))
        return Described(
            schema, rows, metadata.get(TABLE_KEY, b"").decode(), origin if isinstance(origin, dict) else {}
        )
    except (pa.ArrowException, OSError, ValueError) as error:
        what = f"not a readable Parquet file: {str(error).splitlines()[0].rstrip('.')}"
        raise StageError(f"{path}: {what}; if a run made it, {again(path)}") from error


def files(place: Path) -> list[Path]:
    """The file of a table, or its shards where it is a folder; none where there is neither."""
    return [place] if place.is_file() else sorted(place.glob("[!.]*.parquet"))


def scan(paths: Sequence[Path]) -> pl.LazyFrame:
    """All columns of several files; those that a file lacks are null in its rows."""
    return pl.concat([pl.scan_parquet(path, glob=False) for path in paths], how="diagonal_relaxed")


def rows(
    paths: Sequence[Path], table: Table, columns: Sequence[str] | None = None, where: pl.Expr | None = None
) -> pl.DataFrame:
    """The rows for which `where` holds, with `columns` (without any: all of the table). No more of a file is read than
    the row groups that may hold such rows. StageError naming a file that cannot be read."""
    empty = frame(table, []).select(columns or list(table.columns))
    return pl.concat([empty, *(_rows(path, empty, where) for path in paths)])


def _rows(path: Path, form: pl.DataFrame, where: pl.Expr | None) -> pl.DataFrame:
    known = described(path).schema.names
    lacking = [pl.lit(None, dtype).alias(name) for name, dtype in form.schema.items() if name not in known]
    found = pl.scan_parquet(path, glob=False).with_columns(lacking)
    with told(path):
        return (found if where is None else found.filter(where)).select(form.columns).cast(form.schema).collect()


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Within, what is raised about a file's content is a StageError that names it."""
    try:
        yield
    except (pl.exceptions.PolarsError, pa.ArrowException) as error:
        raise StageError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
