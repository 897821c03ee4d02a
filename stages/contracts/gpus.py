"""GPUs are leased: a program takes as many free ones of its machine as it needs, and waits until there are so many.

    python -m stages.contracts.gpus COUNT COMMAND...

becomes COMMAND, with CUDA_VISIBLE_DEVICES set before anything imports CUDA. A lease is a lock on a file per device. The
system drops it with the last process that holds it: forked ranks hold it too, and no kill leaves one behind.

Devices that CUDA_VISIBLE_DEVICES names already, as a scheduler's assignment does, are all there are to lease from. A
machine without GPUs has nothing to lease: the command runs on its CPUs.
"""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from glob import glob
from pathlib import Path

from stages.contracts import locks
from stages.contracts.errors import StageError

COUNT_VARIABLE = "META_REWARDING_GPUS"
"""Environment variable that says how many GPUs the machine has, instead of asking the driver."""
QUEUE = "queue"
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


def lease(count: int, usable: list[str], folder: Path, instead: Callable[[], object] = lambda: None) -> dict[str, int]:
    """Wait for `count` of the `usable` devices. Each is held for as long as the file that is given with it is open, in
    this process or one that got it. None is taken once `instead` finds something, which is asked before each try.

    First come, first served: whoever waits holds the queue, so that no job takes the one device that another job of two
    waits for, and two such jobs never hold one each.
    """
    held: dict[str, int] = {}
    queue, told = locks.opened(folder / QUEUE), False
    while not (found := instead()) and not (locks.locked(queue) and _take(count, usable, folder, held)):
        if not told:
            print(f"waiting for {count} of the GPUs {', '.join(usable)} to be free", file=sys.stderr, flush=True)
        told = True
        time.sleep(WAIT_SECONDS)
    for file in [queue, *(held.values() if found else ())]:
        os.close(file)
    return {} if found else {name: held[name] for name in usable if name in held}


def _take(count: int, usable: list[str], folder: Path, held: dict[str, int]) -> bool:
    """Add free devices to those that are held; whether they are enough."""
    for name in usable:
        if len(held) < count and name not in held:
            lock = locks.opened(folder / name)
            if locks.locked(lock):
                held[name] = lock
            else:
                os.close(lock)
    return len(held) == count


def awaited() -> bool:
    """Whether somebody waits for devices of this machine."""
    return locks.is_held(locks.machine_folder("gpus") / QUEUE)


def leased(count: int, instead: Callable[[], object] = lambda: None) -> dict[str, int]:
    """As `lease`, of the devices that are here; none where there are none. StageError if there are too few."""
    usable = devices() if count else []
    if not usable:
        return {}
    if count > len(usable):
        raise StageError(f"{count} GPUs are needed, but there are only {len(usable)} here: {', '.join(usable)}")
    return lease(count, usable, locks.machine_folder("gpus"), instead)


def prepare(count: int) -> None:
    """Lease devices where there are any, and let this process and what follows see those alone."""
    if held := leased(count):
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(held)
        for file in held.values():
            os.set_inheritable(file, True)


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
