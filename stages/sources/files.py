"""Rows of chat data files, parsed: JSON lines (plain or gzipped) and Parquet as a stream, a JSON list as a whole.

Rows count from 1.
"""

import codecs
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from stages.contracts.errors import StageError
from stages.sources.chat_records import FORMS, FormatError, decode

Parsed = TypeVar("Parsed")
LINES = (".jsonl", ".jsonl.gz")
SHOWN = 3
"""Unusable rows that an error names."""


class Unusable(NamedTuple):
    """Why a row cannot be used."""

    detail: str


def read_rows(
    path: Path, parse: Callable[[Any], Parsed], columns: Sequence[str], what: str, strict: bool = False
) -> Iterator[tuple[str, int, Parsed | Unusable]]:
    """`(source, row, parsed)` of each row of a file: `parse` gets what the JSON of a line says, or the `columns` that a
    Parquet file has. A line that is not JSON, and a row for which `parse` raises FormatError, is Unusable.

    Blank lines are skipped but counted. Raises StageError, naming file and row, for a file of another type, one that
    cannot be read or holds no rows (`what` they are called), a Parquet file without any of the `columns` that hold
    text, and, if `strict`, the first unusable row.
    """
    row, kind = 0, _kind(path)
    for row, found in {"lines": _lines, "list": _items}[kind](path) if kind != "parquet" else _records(path, columns):
        parsed: Parsed | Unusable
        try:
            parsed = parse(decode(found) if isinstance(found, bytes) else found)
        except FormatError as error:
            if strict:
                raise StageError(f"{path}: row {row}: {error}") from None
            parsed = Unusable(str(error))
        yield str(path), row, parsed
    if row == 0:
        raise StageError(f"{path}: the file holds no {what}")


def check_unusable(found: Sequence[tuple[str, int, str]], rows: int, limit: float, setting: str) -> None:
    """The gate: StageError that names the first of the unusable rows `(source, row, detail)`, if they are a larger
    share of all `rows` than the `limit` that a `setting` gives."""
    if len(found) > limit * rows:
        named = "; ".join(f"{source}: row {row}: {detail}" for source, row, detail in found[:SHOWN])
        raise StageError(
            f"{named}. Of {rows} rows, {len(found)} cannot be used, more than {setting} ({limit:.3g}) allows: mend "
            "them, or raise it to leave them out"
        )


def check_sources(paths: Sequence[Path], setting: str) -> None:
    """Before any work: StageError unless each file is named once in `setting`, exists, and has a known type."""
    for path, count in Counter(paths).items():
        if count > 1:
            raise StageError(f"{path}: listed {count} times in {setting}; list it once")
        if not path.is_file():
            raise StageError(f"{path}: no such file (listed in {setting})")
        _kind(path)


def _kind(path: Path) -> str:
    name = path.name.lower()
    kinds = {"lines": LINES, "list": (".json",), "parquet": (".parquet",)}
    kind = next((kind for kind, endings in kinds.items() if name.endswith(endings)), None)
    if kind is None:
        raise StageError(f"{path}: unsupported file type; give .jsonl, .jsonl.gz, .json or .parquet")
    return kind


def _lines(path: Path) -> Iterator[tuple[int, Any]]:
    row = 0
    try:
        with cast(BinaryIO, gzip.open(path)) if path.suffix.lower() == ".gz" else open(path, "rb") as handle:
            for row, line in enumerate(handle, start=1):
                line = line.removeprefix(codecs.BOM_UTF8) if row == 1 else line
                if line.strip():
                    yield row, line
    except (OSError, EOFError, zlib.error) as error:
        raise StageError(f"{path}: cannot be read after row {row}: {error}") from None


def _items(path: Path) -> Iterator[tuple[int, Any]]:
    """The items of a file that is one JSON list; a file of another kind is taken to hold lines, as many `.json` do."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise StageError(f"{path}: cannot be read: {error}") from None
    except (ValueError, RecursionError):
        content = None
    yield from enumerate(content, start=1) if isinstance(content, list) else _lines(path)


def _records(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Any]]:
    row = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            forms = [name for name in columns if name in (*FORMS, "chosen")]
            if not set(forms) & set(names):
                raise StageError(f"{path}: none of the columns {forms} is present; the file has {names}")
            for batch in file.iter_batches(columns=[name for name in columns if name in names]):
                for record in batch.to_pylist():
                    row += 1
                    yield row, record
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        reason = str(error).partition("\n")[0]
        raise StageError(f"{path}: cannot be read as Parquet after row {row}: {reason}") from None
