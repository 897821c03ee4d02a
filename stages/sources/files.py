"""Rows of chat data files, parsed as a stream: JSON lines (plain or gzipped) and Parquet. Rows count from 1."""

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from stages.contracts.errors import StageError
from stages.sources.chat_records import FORMS, FormatError, decode

Parsed = TypeVar("Parsed")


def read_rows(
    path: Path, parse: Callable[[Any], Parsed], columns: Sequence[str], what: str
) -> Iterator[tuple[str, int, Parsed]]:
    """`(source, row, parsed)` of each row of a file: `parse` gets what the JSON of a line says, or the `columns` that a
    Parquet file has.

    Blank lines are skipped but counted. Raises StageError, naming file and row, for a file of another type, one that
    cannot be read or holds no rows (`what` they are called), a Parquet file with no column in FORMS, a line that is not
    JSON, and a row for which `parse` raises FormatError.
    """
    row, lines = 0, _is_lines(path)
    for row, found in _lines(path) if lines else _records(path, columns):
        try:
            parsed = parse(decode(found) if lines else found)
        except FormatError as error:
            raise StageError(f"{path}: row {row}: {error}") from None
        yield str(path), row, parsed
    if row == 0:
        raise StageError(f"{path}: the file holds no {what}")


def check_sources(paths: Sequence[Path], setting: str) -> None:
    """Before any work: StageError unless each file is named once in `setting`, exists, and has a known type."""
    for path, count in Counter(paths).items():
        if count > 1:
            raise StageError(f"{path}: listed {count} times in {setting}; list it once")
        if not path.is_file():
            raise StageError(f"{path}: no such file (listed in {setting})")
        _is_lines(path)


def _is_lines(path: Path) -> bool:
    name = path.name.lower()
    if not name.endswith((".jsonl", ".jsonl.gz", ".parquet")):
        raise StageError(f"{path}: unsupported file type; give .jsonl, .jsonl.gz or .parquet")
    return not name.endswith(".parquet")


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    row = 0
    try:
        with cast(BinaryIO, gzip.open(path)) if path.suffix.lower() == ".gz" else open(path, "rb") as handle:
            for row, line in enumerate(handle, start=1):
                if line.strip():
                    yield row, line
    except (OSError, EOFError, zlib.error) as error:
        raise StageError(f"{path}: cannot be read after row {row}: {error}") from None


def _records(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if not set(FORMS) & set(names):
                raise StageError(f"{path}: none of the columns {list(FORMS)} is present; the file has {names}")
            for batch in file.iter_batches(columns=[name for name in columns if name in names]):
                for record in batch.to_pylist():
                    row += 1
                    yield row, record
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise StageError(f"{path}: cannot be read as Parquet after row {row}: {reason}") from None
