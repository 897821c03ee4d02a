"""A server process of one's own: started on a free port, waited for, and ended with all its processes."""

import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from stages.contracts.errors import StageError

Guard = subprocess.Popen[bytes]
HOST = "127.0.0.1"


@contextmanager
def running(command: str, model: Path, start_seconds: float) -> Iterator[tuple[str, Guard]]:
    """The address of a server that `command` starts, and its guard, which lives as long as the server does.

    What the server prints goes to this process's standard error. Raises StageError if it ends before it is ready, or is
    not ready in time.
    """
    port = _free_port()
    slots = {"{model}": str(model), "{host}": HOST, "{port}": str(port)}
    guard = subprocess.Popen(
        [sys.executable, "-m", "stages.engines.server_guard", *(_filled(part, slots) for part in shlex.split(command))],
        stdin=subprocess.PIPE,
        stdout=sys.stderr,
        start_new_session=True,
    )
    try:
        url = f"http://{HOST}:{port}"
        wait_until_ready(url, start_seconds, guard)
        yield url, guard
    finally:
        assert guard.stdin is not None
        with suppress(OSError):
            guard.stdin.close()
        guard.wait()


def wait_until_ready(url: str, seconds: float, guard: Guard | None = None) -> None:
    """Return once the server answers. StageError if it does not within `seconds`, or its process ends."""
    until, said = time.monotonic() + seconds, "nothing"
    while time.monotonic() < until:
        if guard is not None and guard.poll() is not None:
            raise StageError("the server of engine.server.command ended before it was ready; what it said is above")
        try:
            status = httpx.get(f"{url}/v1/models", timeout=10, trust_env=guard is None).status_code
        except httpx.TransportError as error:
            said = str(error) or type(error).__name__
        else:
            if status in (200, 401, 403):
                return
            said = f"HTTP status {status}"
        time.sleep(0.2)
    raise StageError(f"no server was ready at {url} within {seconds:g} seconds (engine.server.start_seconds): {said}")


def _filled(part: str, slots: dict[str, str]) -> str:
    for slot, value in slots.items():
        part = part.replace(slot, value)
    return part


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])
