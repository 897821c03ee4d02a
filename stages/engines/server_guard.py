"""Runs a server, and ends all its processes as soon as the process that started this one is gone, however it went.

    python -m stages.engines.server_guard COMMAND...

Whoever starts this keeps the other end of standard input open: a kill -9 closes it, too. The server is a process group
of its own. A server whose front dies leaves workers behind (vLLM's hold the GPU): the group ends then, as well.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

GRACE_SECONDS = 10.0


def main() -> int:
    """Run the command until it ends or standard input does; then end its group. Returns the server's exit code."""
    server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, process_group=0)
    threading.Thread(target=_end_with_the_starter, args=(server.pid,), daemon=True).start()
    code = server.wait()
    end_group(server.pid)
    return code


def _end_with_the_starter(group: int) -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    end_group(group)


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
