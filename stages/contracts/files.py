"""Files of any kind: replaced atomically, known by their digest; JSON with clear errors."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from stages.contracts.errors import StageError

UNWRITABLE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free space on that disk (`df -h`)"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "make its folder writable"),
}
"""What is to be done about errors of a disk that takes nothing."""


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes, 16 hex characters."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:16]


def parquet_files(paths: list[Path]) -> list[Path]:
    """The files that are named; in the place of a folder its Parquet files, in the order of their names.

    ValueError for a folder that has none. Hidden files are those that a stage has not finished.
    """
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.glob("[!.]*.parquet")) if path.is_dir() else [path]
        if not inside:
            raise ValueError(f"{path}: no Parquet file is in this folder")
        found += inside
    return found


Shards = Annotated[list[Path], AfterValidator(parquet_files)]
"""Files of one table, or the folder of them: thousands of paths do not fit into a command."""


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a fixed partial path beside `path`, which takes the place of `path` on success, and is removed otherwise.

    The partial name is fixed, so that a killed process leaves at most one file that the next try overwrites.
    Raises StageError naming `path` where the disk is full or nothing may be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            with open(partial, "rb") as handle:
                os.fsync(handle.fileno())
            os.chmod(partial, ordinary_mode())
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within, an error that says that `path` or a file beside it cannot be written is a StageError naming `path`."""
    try:
        yield
    except OSError as error:
        named = Path(os.fsdecode(error.filename or path))  # Arrow names none
        if error.errno not in UNWRITABLE or not (named.parent == path.parent or named in path.parents):
            raise
        remedy = f"{UNWRITABLE[error.errno]}, and run the same command again"
        raise StageError(f"{path}: cannot be written: {os.strerror(error.errno)}; {remedy}") from error


def ordinary_mode() -> int:
    """What `open` gives a new file here. Libraries that write through a temporary file of their own, as safetensors
    does, leave it to its owner alone: others could read a model's configuration, but not its weights."""
    # The mask cannot be read without being set; meanwhile other threads' files are closed, not open, to others.
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def load_json(path: Path, remedy: str) -> dict[str, Any]:
    """A JSON object from a file; StageError naming it, with the remedy if it is missing."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise StageError(f"{path}: no such file; {remedy}") from None
    except ValueError as error:
        raise StageError(f"{path}: not valid JSON: {error}") from error
