"""A table's digest, kept within its own file: who reads the file finds out whether any bit has changed since.

Parquet's readers find the footer by its length, which ends the file, and columns by their distance from its start. What
lies between the last column and the footer is nobody's: there is the seal, a mark and the sha256 of all other bytes.
Parquet's own checksums are of pages alone, not of the footer, and most readers pass them over.
"""

import hashlib
import os
import shlex
from functools import cache
from pathlib import Path
from typing import BinaryIO

from stages.contracts.errors import StageError

MARK = b"sealed by sha256"
SIZE = len(MARK) + hashlib.sha256().digest_size
TAIL = 8
"""Bytes after the footer: its length (4, little-endian), and `PAR1`."""
BLOCK = 1 << 20


def seal(path: Path) -> None:
    """Put the seal into a complete Parquet file, which is not read by anybody yet."""
    with open(path, "r+b") as file:
        whole = hashlib.file_digest(file, "sha256").digest()
        file.seek(start := _footer(file))
        footer = file.read()
        file.seek(start)
        file.write(MARK + whole + footer)


def is_sealed(path: Path) -> bool:
    """Whether a file has a seal. StageError for one that is not there, or has changed since it was sealed.

    It is read as a whole, once a process as long as its size and time stamp stay; other kinds of files have no seal.
    """
    if not path.is_file():
        raise StageError(f"{path}: no such file")
    known = os.stat(path)
    return _checked(path, (known.st_ino, known.st_size, known.st_mtime_ns))


def again(path: Path) -> str:
    """What to type about a file of a run that is damaged."""
    return f"type `rm {shlex.quote(str(path))}` and run snakemake again, which makes it anew"


@cache
def _checked(path: Path, stamp: tuple[int, ...]) -> bool:
    with open(path, "rb") as file:
        start = _footer(file) - SIZE
        file.seek(max(start, 0))
        found = file.read(SIZE)
        if start < 0 or not found.startswith(MARK):
            return False
        if found != MARK + _digest(file, start):
            raise StageError(f"{path}: damaged, its bytes are not those that were written; {again(path)}")
    return True


def _digest(file: BinaryIO, start: int) -> bytes:
    """The sha256 of all bytes but those of the seal at `start`."""
    sha, left = hashlib.sha256(), start
    file.seek(0)
    while block := file.read(min(BLOCK, left)):
        sha.update(block)
        left -= len(block)
    file.seek(start + SIZE)
    sha.update(file.read())
    return sha.digest()


def _footer(file: BinaryIO) -> int:
    """Where the footer begins, or would begin: the length may be that of a damaged file."""
    end = file.seek(0, os.SEEK_END) - TAIL
    file.seek(max(end, 0))
    return end - int.from_bytes(file.read(4), "little")
