"""Rows of data files, as a stream: JSON lines (plain or gzipped) and Parquet. Rows count from 1."""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from stages.conversations import FormatError
from stages.errors import StageError


def read_rows(path: Path, columns: Sequence[str], one_of: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """`(row, record)` of each row of a file: what the JSON of a line says, or the `columns` that a Parquet file has.

    Blank lines are skipped but counted. Raises StageError, naming file and row, for a file of another type, one that
    cannot be read or holds no rows, a Parquet file with no column in `one_of`, and a line that is not JSON.
    """
    row = 0
    for row, record in _lines(path) if _is_lines(path) else _records(path, columns, one_of):
        yield row, record
    if row == 0:
        raise StageError(f"{path}: the file holds no rows")


def check_sources(paths: Sequence[Path], setting: str) -> None:
    """Before any work: StageError unless each file is named once in `setting`, exists, and has a known type."""
    for path, count in Counter(paths).items():
        if count > 1:
            raise StageError(f"{path}: listed {count} times in {setting}; list it once")
        if not path.is_file():
            raise StageError(f"{path}: no such file (listed in {setting})")
        _is_lines(path)


def decode(line: bytes) -> Any:
    """The value of a line of JSON. Raises FormatError where it is no UTF-8 JSON."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FormatError(f"not UTF-8 (byte {error.start + 1}: {error.reason})") from None
    except json.JSONDecodeError as error:
        raise FormatError(f"malformed JSON at character {error.pos + 1}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # numbers beyond Python's digit limit, bottomless nesting
        raise FormatError(f"malformed JSON: {error}") from None


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
                    yield row, decode(line)
    except FormatError as error:
        raise StageError(f"{path}: row {row}: {error}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise StageError(f"{path}: cannot be read after row {row}: {error}") from None


def _records(path: Path, columns: Sequence[str], one_of: Sequence[str]) -> Iterator[tuple[int, Any]]:
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if not set(one_of) & set(names):
                raise StageError(f"{path}: none of the columns {list(one_of)} is present; the file has {names}")
            for batch in file.iter_batches(columns=[name for name in columns if name in names]):
                for record in batch.to_pylist():
                    row += 1
                    yield row, record
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise StageError(f"{path}: cannot be read as Parquet after row {row}: {reason}") from None
