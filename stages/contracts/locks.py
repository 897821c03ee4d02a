"""Locks among the programs of one user on one machine. The system drops them with the processes that hold them."""

import fcntl
import os
import tempfile
from pathlib import Path

from stages.contracts.errors import StageError

ALLOCATIONS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
"""A scheduler's job may see a part of the machine, numbered from 0: what is shared is shared within one job."""


def machine_folder(name: str) -> Path:
    """A folder of this user alone on this machine, another one in each job of a scheduler. StageError if the place is
    somebody else's."""
    own = Path(tempfile.gettempdir(), f"meta-rewarding-{os.getuid()}")
    own.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = own.lstat()
    if own.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StageError(
            f"{own}: must be a folder that belongs to you and is open to you alone; remove it, or set TMPDIR"
        )
    allocation = next((f"{given}-{os.environ[given]}" for given in ALLOCATIONS if given in os.environ), "machine")
    folder = own / allocation / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def opened(path: Path) -> int:
    """A file to lock, made where there is none."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def locked(file: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether an opened file is locked now, by whoever shares this opening of it."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether a program holds the lock of a file. Several may ask at once without being taken for it."""
    file = opened(path)
    try:
        return not locked(file, fcntl.LOCK_SH)
    finally:
        os.close(file)
