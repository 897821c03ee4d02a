"""The Parquet contracts between the stages, and the only functions that read and write them.

A table is a pyarrow schema whose fields carry a description. `write` checks rows against it and replaces the
file atomically; `read` checks a file against it, so that a stage never meets a missing or mistyped column.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import StageError

PROVENANCE_KEY = b"provenance"
TABLE_KEY = b"table"

_DTYPES: dict[str, pa.DataType] = {
    "str": pa.large_string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "tokens": pa.large_list(pa.int32()),
    "messages": pa.large_list(pa.struct([("role", pa.large_string()), ("content", pa.large_string())])),
    "span": pa.large_list(pa.int64()),
}


@dataclass(frozen=True)
class Table:
    """One artifact: its name, what one row is, its key columns, and its columns.

    `columns` maps a name to `(dtype, description)`; a dtype ending in `?` admits nulls.
    """

    name: str
    row: str
    key: tuple[str, ...]
    columns: dict[str, tuple[str, str]]

    @property
    def schema(self) -> pa.Schema:
        """The pyarrow schema, with each column's description as field metadata."""
        return pa.schema(
            [
                pa.field(
                    name,
                    _DTYPES[dtype.rstrip("?")],
                    nullable=dtype.endswith("?"),
                    metadata={"description": description},
                )
                for name, (dtype, description) in self.columns.items()
            ]
        )


def frame(table: Table, rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Rows as a data frame with exactly the table's columns and types (also when there are no rows)."""
    arrow = pa.Table.from_pylist(list(rows), schema=_nullable(table.schema))
    return pl.DataFrame(pl.from_arrow(arrow))


def write(data: pl.DataFrame, path: Path, table: Table, provenance: dict[str, Any]) -> None:
    """Sort by key, check, and atomically replace `path`.

    The same rows always give the same bytes: rows are sorted by key and the metadata holds no clock.
    Raises StageError if a column is missing, a required value is null or a key occurs twice.
    """
    missing = [name for name in table.columns if name not in data.columns]
    if missing:
        raise StageError(f"{path}: cannot write table {table.name}: column {missing[0]!r} is missing")
    data = data.select(list(table.columns)).sort(list(table.key))
    for name, (dtype, _) in table.columns.items():
        if not dtype.endswith("?") and data[name].null_count():
            row = data[name].is_null().arg_true()[0]
            raise StageError(f"{path}: row {row}: column {name!r} of table {table.name} is null")
    duplicated = data.select(pl.struct(table.key).is_duplicated())
    if table.key and duplicated.to_series().any():
        row = duplicated.to_series().arg_true()[0]
        raise StageError(f"{path}: row {row}: key {data.select(table.key).row(row)} of table {table.name} occurs twice")
    metadata = {TABLE_KEY: table.name.encode(), PROVENANCE_KEY: json.dumps(provenance, sort_keys=True).encode()}
    arrow = data.to_arrow().cast(table.schema).replace_schema_metadata(metadata)
    with atomic(path) as partial:
        pq.write_table(arrow, partial, compression="zstd")


def read(paths: Path | Sequence[Path], table: Table, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """All rows of one or several files of a table, in the order of the files.

    Raises StageError naming the file, and the column where one is missing or has another type.
    """
    paths = [paths] if isinstance(paths, Path) else list(paths)
    names = list(columns or table.columns)
    parts = []
    for path in paths:
        _check(path, table, names)
        parts.append(pl.read_parquet(path, columns=names))
    return pl.concat(parts) if parts else frame(table, []).select(names)


def provenance(path: Path) -> dict[str, Any]:
    """The provenance that `write` stored in a file's metadata."""
    if not path.exists():
        raise StageError(f"{path}: no such file")
    metadata = pq.read_schema(path).metadata or {}
    return json.loads(metadata.get(PROVENANCE_KEY, b"{}"))


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, 16 hex characters."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]


class atomic:
    """Context manager: yields a fixed partial path beside `path`, moves it over `path` on success.

    The partial name is fixed, so that a killed process leaves at most one file that the next try overwrites.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.partial = self.path.with_name(f".{self.path.name}.partial")

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self.partial

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.partial.unlink(missing_ok=True)
            return
        with open(self.partial, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(self.partial, self.path)


def _check(path: Path, table: Table, names: Sequence[str]) -> None:
    if not path.exists():
        raise StageError(f"{path}: no such file (expected a {table.name} table)")
    try:
        found = pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise StageError(f"{path}: not a readable Parquet file: {error}") from error
    for name in names:
        expected = table.schema.field(name).type
        if name not in found.names:
            raise StageError(f"{path}: column {name!r} of table {table.name} is missing; the file has {found.names}")
        if found.field(name).type != expected:
            raise StageError(
                f"{path}: column {name!r} of table {table.name} has type {found.field(name).type}, expected {expected}"
            )


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema])
