"""The Parquet contracts between the stages, and the only functions that read and write them.

A table is a pyarrow schema whose fields carry a description. `write` checks rows against it and replaces the
file atomically; `read` checks a file against it, so that a stage never meets a missing or mistyped column.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from stages.contracts.errors import StageError

PROVENANCE_KEY = b"provenance"
TABLE_KEY = b"table"
ROW_GROUP = 65_536
"""Rows that a file compresses together: what a reader has to hold of it at a time."""
STREAM_ROWS = 65_536
"""Rows in one piece of a stream."""

_DTYPES: dict[str, pa.DataType] = {
    "str": pa.large_string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "strings": pa.large_list(pa.large_string()),
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
    """Sort by key, check, and atomically replace `path`; what a Writer raises."""
    with Writer(path, table, provenance) as writer:
        writer.write(data)


class Writer:
    """Context manager that writes a table piece by piece and replaces `path` when it is complete.

    The pieces follow each other in key order. The same rows always give the same bytes, whatever the pieces: rows are
    sorted by key, row groups have a fixed size, and the metadata holds no clock.
    """

    def __init__(self, path: Path, table: Table, provenance: dict[str, Any]):
        self._path, self._table = path, table
        metadata = {TABLE_KEY: table.name.encode(), PROVENANCE_KEY: json.dumps(provenance, sort_keys=True).encode()}
        self._schema = table.schema.with_metadata(metadata)
        self._waiting: list[pl.DataFrame] = []
        self._rows = 0
        self._last: tuple[Any, ...] = ()

    def __enter__(self) -> "Writer":
        self._stack = ExitStack()
        partial = self._stack.enter_context(atomic(self._path))
        self._file = self._stack.enter_context(pq.ParquetWriter(partial, self._schema, compression="zstd"))
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            self._flush(everything=True)
        self._stack.__exit__(kind, error, trace)

    def write(self, data: pl.DataFrame) -> None:
        """Add rows. Raises StageError for a missing column, a null where none may be, a key that occurs twice, and a
        piece that does not follow the last one."""
        missing = [name for name in self._table.columns if name not in data.columns]
        if missing:
            raise self._error(f"column {missing[0]!r} of table {self._table.name} is missing")
        if data.is_empty():
            return
        key = list(self._table.key)
        data = data.select(list(self._table.columns)).sort(key)
        for name, (dtype, _) in self._table.columns.items():
            if not dtype.endswith("?") and data[name].null_count():
                raise self._error(f"column {name!r} of table {self._table.name} is null", _first(data[name].is_null()))
        duplicated = data.select(pl.struct(key).is_duplicated()).to_series()
        if duplicated.any():
            row = _first(duplicated)
            raise self._error(f"key {data.select(key).row(row)} of table {self._table.name} occurs twice", row)
        if self._last and data.select(key).row(0) <= self._last:
            raise self._error(f"key {data.select(key).row(0)} of table {self._table.name} does not follow {self._last}")
        self._last = data.select(key).row(-1)
        self._waiting.append(data)
        self._flush()

    def _flush(self, everything: bool = False) -> None:
        """Write full row groups; at the end also the last, smaller one."""
        if not self._waiting or (not everything and sum(map(len, self._waiting)) < ROW_GROUP):
            return
        data = pl.concat(self._waiting)
        ready = data.height if everything else data.height - data.height % ROW_GROUP
        arrow = data.head(ready).to_arrow().cast(self._table.schema).replace_schema_metadata(self._schema.metadata)
        self._file.write_table(arrow, row_group_size=ROW_GROUP)
        self._rows += ready
        self._waiting = [data.tail(data.height - ready)] if data.height > ready else []

    def _error(self, what: str, row: int | None = None) -> StageError:
        place = "" if row is None else f"row {self._rows + sum(map(len, self._waiting)) + row}: "
        return StageError(f"{self._path}: cannot write: {place}{what}")


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


def read_matching(
    paths: Sequence[Path], table: Table, columns: Sequence[str], wanted: pl.DataFrame, on: Sequence[str]
) -> pl.DataFrame:
    """The rows whose key `on` is in `wanted`, read file by file: all texts at once may not fit in memory."""
    parts = [read(path, table, columns).join(wanted, on=list(on), how="semi") for path in paths]
    return pl.concat([frame(table, []).select(columns), *parts])


def stream(paths: Sequence[Path], table: Table, columns: Sequence[str]) -> Iterator[pl.DataFrame]:
    """The rows of several files of a table, merged in the order of its first key column; raises like `read`.

    Each piece holds whole groups of that column (all rows of a prompt), whatever file they are in, so that neither the
    number of files nor the size of the pieces can change what is made of them. Files must be sorted by key, as `write`
    leaves them; memory is then bounded by the size of a piece.
    """
    group = table.key[0]
    for path in paths:
        _check(path, table, columns)
    with ExitStack() as stack:
        # pyarrow's read-ahead would keep all of a file in memory.
        files = [stack.enter_context(pq.ParquetFile(path, pre_buffer=False)) for path in paths]
        size = max(1, STREAM_ROWS // max(1, len(files)))
        batches = [map(_to_polars, file.iter_batches(size, columns=list(columns))) for file in files]
        empty = frame(table, []).select(columns)
        buffers, unread, horizon = [empty] * len(files), list(range(len(files))), None
        while unread:
            for index in list(unread):
                if buffers[index].is_empty() or buffers[index][group][-1] == horizon:
                    if (batch := next(batches[index], None)) is None:
                        unread.remove(index)
                    else:
                        buffers[index] = pl.concat([buffers[index], batch])
            # No row that is still unread can come before the horizon.
            horizon = min((buffers[index][group][-1] for index in unread), default=None)
            before = pl.lit(True) if horizon is None else pl.col(group) < horizon
            piece = pl.concat([empty, *(buffer.filter(before) for buffer in buffers)])
            buffers = [buffer.filter(~before) for buffer in buffers]
            if piece.height:
                yield piece.sort(group)


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


def _first(flags: pl.Series) -> int:
    return int(flags.arg_true()[0])


def _to_polars(batch: pa.RecordBatch) -> pl.DataFrame:
    return pl.DataFrame(pl.from_arrow(batch))


def _nullable(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field.with_nullable(True) for field in schema])
