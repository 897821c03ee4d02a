"""Runs a server for as long as somebody uses it, or may come to; then ends all its processes.

    python -m stages.engines.server_guard SLOT LOCK COMMAND...

Whoever uses the server holds the lock of the file SLOT, which the system drops however that process goes. LOCK is the
number of an open file, whose lock says that this guard lives. The server is a process group of its own. One whose front
dies leaves workers behind (vLLM's hold the GPU): the group ends then, as well.
"""

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from stages.contracts import gpus, locks

GRACE_SECONDS = 10.0
LOOK_SECONDS = 0.5
PATIENCE = 3
"""So often in a row is somebody seen to wait for GPUs before a server gives way: who could use it takes it first."""
PR_SET_PDEATHSIG = 1


def main() -> int:
    """Run the command until it ends or nobody uses it; then end its group. Returns the server's exit code."""
    slot, lock, *command = sys.argv[1:]
    os.set_inheritable(int(lock), False)
    # What else is open are leases of GPUs: they last as long as the server, even if this process is killed.
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, process_group=0, close_fds=False, preexec_fn=_die_with_the_guard
    )
    threading.Thread(target=_end_when_unused, args=(Path(slot), server.pid), daemon=True).start()
    code = server.wait()
    os.truncate(slot, 0)
    end_group(server.pid)
    return code


def _die_with_the_guard() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_when_unused(slot: Path, group: int) -> None:
    file = locks.opened(slot)
    while True:
        fcntl.flock(file, fcntl.LOCK_EX)  # once its user is gone
        if _nobody_comes(file):
            end_group(group)
            return


def _nobody_comes(file: int) -> bool:
    """Give up the lock while the server is on offer. True, with the lock, when it is to end: nobody takes it then."""
    offer, before, unused_since, waiting = read_offer(file), _touched(file), time.monotonic(), 0
    fcntl.flock(file, fcntl.LOCK_UN)
    while offer and time.monotonic() < unused_since + offer["linger_seconds"] and waiting < PATIENCE:
        time.sleep(min(LOOK_SECONDS, offer["linger_seconds"]))
        if _touched(file) != before:
            return False
        waiting = waiting + 1 if offer["gpus"] and gpus.awaited() else 0
    return locks.locked(file) and _touched(file) == before


def _touched(file: int) -> int:
    return os.fstat(file).st_mtime_ns


def read_offer(file: int) -> dict[str, Any] | None:
    """What a slot says of the server in it, if that is for others to use."""
    try:
        return dict(json.loads(os.pread(file, 1 << 16, 0)))
    except ValueError:
        return None


def end_group(group: int) -> None:
    """SIGTERM to a process group, and SIGKILL to what of it still lives after a while."""
    until = time.monotonic() + GRACE_SECONDS
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)
        while time.monotonic() < until:
            time.sleep(0.05)
            os.killpg(group, 0)  # raises once none is left
        os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
