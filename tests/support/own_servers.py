"""Servers of `engine.server.command`: the jobs that use them, and what is left of them."""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from stages.config import ServerSettings

LLAMA = f"{shlex.quote(sys.executable)} -m tests.support.llama_server {{model}} {{host}} {{port}} 4"
FILES = f"{shlex.quote(sys.executable)} -m http.server --bind {{host}} --directory {{model}} {{port}}"
"""Starts at once, and is ready where the model's folder has a file `v1/models`."""
JOB = """
import sys
from pathlib import Path
from stages.config import ServerSettings
from stages.engines.local_server import running
with running(ServerSettings.model_validate_json(sys.argv[2]), Path(sys.argv[1])) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def job(model: Path, server: ServerSettings, log: Path, *before: str) -> "subprocess.Popen[str]":
    """A job that says the address of its server and uses it until its standard input ends. A server that it leaves goes
    on writing into its log."""
    words = [*before, sys.executable, "-c", JOB, str(model), server.model_dump_json()]
    with open(log, "w") as errors:
        return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True)


def line(stream: Any) -> str:
    return str(stream.readline().strip())


def servers(model: Path, url: str = "") -> list[int]:
    """Processes of servers of a model (and at an address), by their command lines."""
    port = url.rpartition(":")[2]
    of_model = {**_commands("tests.support.llama_server"), **_commands("http.server")}
    return [process for process, words in of_model.items() if str(model) in words and (not port or port in words)]


def guards(folder: Path) -> list[int]:
    """Processes of guards whose slots are in a folder, or below."""
    return [
        process
        for process, words in _commands("stages.engines.server_guard").items()
        if Path(words[3]).is_relative_to(folder)
    ]


def _commands(module: str) -> dict[int, list[str]]:
    """Processes that run a module, and their command lines."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            if words[1:3] == ["-m", module]:
                found[int(folder.name)] = words
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "waited too long"
        time.sleep(0.05)
