"""Files of any kind: replaced atomically, known by their digest; JSON with clear errors."""

import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator

from stages.contracts.errors import StageError


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
        os.chmod(self.partial, ordinary_mode())
        os.replace(self.partial, self.path)


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
