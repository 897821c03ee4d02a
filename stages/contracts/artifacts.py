"""Tables in Parquet files: the only functions that read and write them.

`write` checks rows against a schema, seals the file and replaces it atomically; `read` checks seal and schema, so that
a stage never meets a damaged file, or a missing or mistyped column.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from stages.contracts.errors import StageError
from stages.contracts.files import atomic
from stages.contracts.schema import Table, frame
from stages.contracts.seals import again, is_sealed, seal

PROVENANCE_KEY = b"provenance"
TABLE_KEY = b"table"
ROW_GROUP = 65_536
"""Rows that a file compresses together: what a reader has to hold of it at a time."""
STREAM_ROWS = 65_536
"""Rows in one piece of a stream."""


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
        self._open = _sealed(self._path, self._schema)
        self._file = self._open.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                self._flush(everything=True)
        except BaseException:
            error = sys.exc_info()
            raise
        finally:
            self._open.__exit__(*error)

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


@contextmanager
def _sealed(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    with atomic(path) as partial:
        with pq.ParquetWriter(partial, schema, compression="zstd") as file:
            yield file
        seal(partial)


def read(paths: Path | Sequence[Path], table: Table, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """All rows of one or several files of a table, in the order of the files.

    Raises StageError naming a file that is damaged, and the column where one is missing or has another type.
    """
    paths = [paths] if isinstance(paths, Path) else list(paths)
    names = list(columns or table.columns)
    parts = []
    for path in paths:
        _check(path, table, names)
        parts.append(pl.read_parquet(path, columns=names, glob=False))
    return pl.concat(parts) if parts else frame(table, []).select(names)


def read_matching(
    paths: Sequence[Path], table: Table, columns: Sequence[str], wanted: pl.DataFrame, on: Sequence[str]
) -> pl.DataFrame:
    """The rows whose key `on` is in `wanted`, read file by file: all texts at once may not fit in memory."""
    parts = [read(path, table, columns).join(wanted, on=list(on), how="semi") for path in paths]
    return pl.concat([frame(table, []).select(columns), *parts])


def read_joined(rows: pl.DataFrame, path: Path, table: Table, columns: Sequence[str]) -> pl.DataFrame:
    """`rows` with `columns` of a table, found by its key; StageError naming the file and a key that it lacks."""
    key = list(table.key)
    given = read(path, table, [*key, *columns])
    lost = rows.join(given, on=key, how="anti")
    if lost.height:
        names = ", ".join(f"{name} {value}" for name, value in lost.select(key).row(0, named=True).items())
        raise StageError(f"{path}: no row for {names}; give the file of {table.name} that the others were made from")
    return rows.join(given, on=key, how="left", validate="m:1")


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
    """The provenance that `write` stored in a file's metadata. StageError for a file that is missing or damaged."""
    metadata = _schema(path).metadata or {}
    return json.loads(metadata.get(PROVENANCE_KEY, b"{}"))


def _schema(path: Path) -> pa.Schema:
    """What a file says of itself, once it is known to be as it was written; tables of other programs have no seal."""
    sealed = is_sealed(path)
    try:
        found = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        what = f"not a readable Parquet file: {str(error).splitlines()[0].rstrip('.')}"
        raise StageError(f"{path}: {what}; if a run made it, {again(path)}") from error
    if not sealed and TABLE_KEY in (found.metadata or {}):
        raise StageError(f"{path}: not sealed, hence damaged, or made by an older version; {again(path)}")
    return found


def _check(path: Path, table: Table, names: Sequence[str]) -> None:
    if not path.exists():
        raise StageError(f"{path}: no such file (expected a {table.name} table)")
    found = _schema(path)
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
