"""Servers of one's own: started on a free port, left for the next job that wants the same one, never shared by two.

Each has a slot: a file that whoever uses the server locks, and another one that its guard locks. The system drops both
locks at any death. Where there is a guard, and an offer in a slot that can be locked, a server waits for somebody;
`server_guard` ends it once nobody comes.
"""

import fcntl
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import httpx

from stages.config import ServerSettings
from stages.contracts import gpus, locks
from stages.contracts.errors import StageError
from stages.contracts.ids import digest
from stages.engines.server_guard import read_offer
from stages.model_files.manifest import fingerprint

HOST = "127.0.0.1"
HANDOVER_SECONDS = 1.0
"""What a busy machine may take until the guard of a server that was left has let go of its slot."""


class Slot:
    """A slot that this process holds, and so the server in it."""

    def __init__(self, path: Path, file: int) -> None:
        self.path, self._file = path, file
        self.url = ""

    @property
    def _guard(self) -> Path:
        return self.path.with_suffix(".guard")

    def lives(self) -> bool:
        """Whether there is a server, which its guard has neither lost nor ended."""
        return locks.is_held(self._guard)

    def taken(self) -> bool:
        """Whether the server that was left here is ready; then it is this process's."""
        offer = read_offer(self._file)
        if not (offer and self.lives() and _problem(offer["url"], through_proxy=False) is None):
            return False
        os.utime(self._file)  # tells the guard that somebody came
        self.url = offer["url"]
        print(f"using the server at {self.url}, which runs already; what it says is in {offer['log']}", file=sys.stderr)
        return True

    def start(self, server: ServerSettings, model: Path, leases: dict[str, int]) -> None:
        """Start a server, which prints to this process's standard error. StageError if it is not ready in time."""
        assert server.command is not None
        os.truncate(self._file, 0)
        port = _free_port()
        slots = {"{model}": str(model), "{host}": HOST, "{port}": str(port)}
        command = [_filled(part, slots) for part in shlex.split(server.command)]
        guard = locks.opened(self._guard)
        fcntl.flock(guard, fcntl.LOCK_EX)
        handed = [guard, *leases.values()]
        subprocess.Popen(
            [sys.executable, "-m", "stages.engines.server_guard", self.path, str(guard), *command],
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
            pass_fds=handed,
            env=os.environ | ({"CUDA_VISIBLE_DEVICES": ",".join(leases)} if leases else {}),
        )
        for file in handed:  # they are the guard's now: what happens to this process frees none
            os.close(file)
        self.url = f"http://{HOST}:{port}"
        wait_until_ready(self.url, server.start_seconds, self)
        if server.linger_seconds:
            log = os.readlink("/proc/self/fd/2")
            offer = {"url": self.url, "log": log, "linger_seconds": server.linger_seconds, "gpus": list(leases)}
            os.pwrite(self._file, json.dumps(offer).encode(), 0)

    def withdraw(self) -> None:
        """Offer the server to nobody: its guard ends it."""
        os.truncate(self._file, 0)

    def leave(self) -> None:
        """Leave the server to the next one, or wait for its end where it is offered to nobody."""
        offered = read_offer(self._file)
        self.drop()
        if not offered:
            with open(self._guard) as guard:
                fcntl.flock(guard, fcntl.LOCK_SH)

    def drop(self) -> None:
        os.close(self._file)


@contextmanager
def running(server: ServerSettings, model: Path) -> Iterator[Slot]:
    """The server of `server.command` for a model, for this process alone: one that was left, or a new one. After an
    error it is left to nobody, since it may be the reason."""
    folder = locks.machine_folder("servers") / _kind(server, model)
    folder.mkdir(exist_ok=True)
    left = _left(folder)

    def another_leaves_one() -> bool:
        nonlocal left
        left = _left(folder)
        return left is not None

    leases = {} if left else gpus.leased(server.gpus, instead=another_leaves_one)
    slot = left or _empty(folder)
    try:
        if left is None:
            slot.start(server, model, leases)
        yield slot
    except BaseException:
        slot.withdraw()
        raise
    finally:
        slot.leave()


def _kind(server: ServerSettings, model: Path) -> str:
    """What servers have in common that may stand in for each other."""
    where = (os.getcwd(), os.environ.get("PATH"), gpus.devices() if server.gpus else [])
    return digest(server.command, str(model.resolve()), fingerprint(model), server.gpus, *where)


def _left(folder: Path) -> Slot | None:
    """A slot with a server that waits for somebody, if there is one. One that is held may be free in a moment: to see
    what it is left with, its guard holds it as well."""
    until = time.monotonic() + HANDOVER_SECONDS
    while True:
        held = False
        for path in sorted(folder.glob("*.slot")):
            if slot := _held(path):
                if slot.taken():
                    return slot
                slot.drop()
            else:
                held = True
        if not held or time.monotonic() > until:
            return None
        time.sleep(HANDOVER_SECONDS / 20)


def _empty(folder: Path) -> Slot:
    """The first slot without a server; there are as many as were ever needed at once."""
    for number in count():
        if slot := _held(folder / f"{number}.slot"):
            if not slot.lives():
                return slot
            slot.drop()
    raise AssertionError


def _held(path: Path) -> Slot | None:
    file = locks.opened(path)
    if locks.locked(file):
        return Slot(path, file)
    os.close(file)
    return None


def wait_until_ready(url: str, seconds: float, own: Slot | None = None) -> None:
    """Return once the server answers. StageError if it does not within `seconds`, or is one's own and ends."""
    until, said = time.monotonic() + seconds, "nothing"
    while time.monotonic() < until:
        if own is not None and not own.lives():
            raise StageError("the server of engine.server.command ended before it was ready; what it said is above")
        problem = _problem(url, through_proxy=own is None)
        if problem is None:
            return
        said = problem
        time.sleep(0.2)
    raise StageError(f"no server was ready at {url} within {seconds:g} seconds (engine.server.start_seconds): {said}")


def _problem(url: str, through_proxy: bool) -> str | None:
    """Why a server is not ready."""
    try:
        status = httpx.get(f"{url}/v1/models", timeout=10, trust_env=through_proxy).status_code
    except httpx.TransportError as error:
        return str(error) or type(error).__name__
    return None if status in (200, 401, 403) else f"HTTP status {status}"


def _filled(part: str, slots: dict[str, str]) -> str:
    for slot, value in slots.items():
        part = part.replace(slot, value)
    return part


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])
