"""Fresh processes in which Megatron is loaded already: one alone, or the ranks of a process group.

Python with torch, Megatron and NeMo takes seconds to start, for each rank. Here Python's own fork server imports them
once a session, and the ranks of every case are forked from it: they start at once, and share nothing with those of the
case before.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection, forkserver, get_context
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
PRELOADED = [
    *(f"tests.probes.{name}" for name in ("checkpoints", "layouts", "weights")),
    # What a training imports only when it gets there.
    "nemo.core.optim.lr_scheduler",
]


@dataclass(frozen=True)
class Ended:
    """How the processes ended, by rank, and what they printed."""

    codes: list[int | None]
    printed: str


def fork(function: Callable[..., None], *arguments: Any, ranks: int = 1, timeout: float = 120) -> Ended:
    """Call `function(*arguments)` in so many new processes. If one fails, the others are killed, as by torchrun."""
    from torch.distributed import TCPStore

    # The ranks meet at a store of this process, as at torchrun's: no other program can take its port.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "TORCHELASTIC_USE_AGENT_STORE": True}
    world = {**meeting, "TORCHELASTIC_RESTART_COUNT": 0, "WORLD_SIZE": ranks} if ranks > 1 else {}
    context, places = _server(), [{**world, "RANK": rank, "LOCAL_RANK": rank} if world else {} for rank in range(ranks)]
    output, end = context.Pipe(duplex=False)
    processes = [context.Process(target=_rank, args=(place, end, function, arguments)) for place in places]
    try:
        for process in processes:
            process.start()
        end.close()
        printed = b"".join(_output(output, processes, time.monotonic() + timeout))
    finally:
        _end(processes)
    return Ended([process.exitcode for process in processes], printed.decode(errors="replace"))


def succeed(function: Callable[..., None], *arguments: Any, ranks: int = 1, timeout: float = 120) -> None:
    """`fork`, of which every process must end well."""
    ended = fork(function, *arguments, ranks=ranks, timeout=timeout)
    assert ended.codes == [0] * ranks, ended.printed[-3000:]


def _server() -> ForkServerContext:
    """The fork server, started by the first who asks."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with patch.dict(os.environ, ENVIRONMENT):
        forkserver.ensure_running()
    return context


def _output(output: Connection, processes: Sequence[BaseProcess], deadline: float) -> Iterator[bytes]:
    """What the processes print until the last one ends; ends all when one has failed, or when it is too late."""
    while True:
        running = [process.sentinel for process in processes if process.exitcode is None]
        ready = connection.wait([output, *running], max(0, deadline - time.monotonic()))
        if not ready or any(process.exitcode for process in processes):
            _end(processes)
        if output in ready and (printed := os.read(output.fileno(), 1 << 16)):
            yield printed
        elif output in ready or not ready:
            return


def _end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.pid:
            process.kill()
            process.join()


def _rank(place: dict[str, Any], end: Connection, function: Callable[..., None], arguments: Sequence[Any]) -> None:
    """What a process does: take its place in the world, print into the pipe, and call the function."""
    os.environ.update({name: str(value) for name, value in place.items()})
    os.dup2(end.fileno(), 1)
    os.dup2(end.fileno(), 2)
    end.close()
    function(*arguments)
