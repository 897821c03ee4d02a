"""GPUs are leased: a program takes as many free ones of its machine as it needs, and waits until there are so many.

    python -m stages.contracts.gpus COUNT COMMAND...

becomes COMMAND, with CUDA_VISIBLE_DEVICES set before anything imports CUDA. A lease is a lock on a file per device. The
system drops it with the last process that holds it: forked ranks hold it too, and no kill leaves one behind.

Devices that CUDA_VISIBLE_DEVICES names already, as a scheduler's assignment does, are all there are to lease from. A
machine without GPUs has nothing to lease: the command runs on its CPUs.
"""

import fcntl
import os
import re
import subprocess
import sys
import tempfile
import time
from glob import glob
from pathlib import Path

from stages.contracts.errors import StageError

COUNT_VARIABLE = "META_REWARDING_GPUS"
"""Environment variable that says how many GPUs the machine has, instead of asking the driver."""
ALLOCATIONS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID")
"""Schedulers give no device to two jobs, but may number each job's from 0: leases are among the programs of one job."""
WAIT_SECONDS = 0.5


def devices() -> list[str]:
    """The devices that may be leased, as CUDA_VISIBLE_DEVICES names them."""
    assigned = os.environ.get("CUDA_VISIBLE_DEVICES", os.environ.get("SLURM_JOB_GPUS"))
    if assigned is None:
        return [str(number) for number in range(_count())]
    names = (name.strip() for name in assigned.split(","))
    return [name for name in names if re.fullmatch(r"\d+|(GPU|MIG)-.+", name)]


def _count() -> int:
    """GPUs of this machine, counted without CUDA: importing it here would be too early."""
    if told := os.environ.get(COUNT_VARIABLE):
        return int(told)
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
        return len(re.findall(r"^GPU \d+:", listed, re.MULTILINE))
    except (OSError, subprocess.CalledProcessError):
        return len(glob("/dev/nvidia[0-9]*"))


def lease(count: int, usable: list[str], folder: Path) -> list[str]:
    """Wait for `count` of the `usable` devices, and hold them for as long as this process or one that it starts lives.

    First come, first served: whoever waits holds the queue, so that no job takes the one device that another job of two
    waits for, and two such jobs never hold one each.
    """
    held: list[str] = []
    queue, told = _opened(folder / "queue"), False
    while not (_locked(queue) and _take(count, usable, folder, held)):
        if not told:
            print(f"waiting for {count} of the GPUs {', '.join(usable)} to be free", file=sys.stderr, flush=True)
        told = True
        time.sleep(WAIT_SECONDS)
    os.close(queue)
    return [name for name in usable if name in held]


def _take(count: int, usable: list[str], folder: Path, held: list[str]) -> bool:
    """Add free devices to those that are held; whether they are enough."""
    for name in usable:
        if len(held) < count and name not in held:
            lock = _opened(folder / name)
            if _locked(lock):
                os.set_inheritable(lock, True)
                held.append(name)
            else:
                os.close(lock)
    return len(held) == count


def _opened(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _folder() -> Path:
    """Where this machine's locks are; a folder for each job of a scheduler."""
    allocation = next((f"{name}-{os.environ[name]}" for name in ALLOCATIONS if name in os.environ), "machine")
    return Path(tempfile.gettempdir(), f"meta-rewarding-gpus-{os.getuid()}", allocation)


def prepare(count: int) -> None:
    """Lease devices where there are any, and let what follows see those alone. StageError if there are too few."""
    usable = devices()
    if not usable or not count:
        return
    if count > len(usable):
        raise StageError(f"{count} GPUs are needed, but there are only {len(usable)} here: {', '.join(usable)}")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(lease(count, usable, _folder()))


def main() -> None:
    """Prepare the devices, and become the command."""
    count, *command = sys.argv[1:]
    try:
        prepare(int(count))
    except StageError as error:
        sys.exit(f"error: {error}")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
