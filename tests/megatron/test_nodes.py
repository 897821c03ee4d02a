"""Training over two nodes, both on this machine: on each an agent of torchrun, as the rule's srun starts it."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from stages import tables, train
from stages.contracts import cli
from stages.contracts.artifacts import read
from tests.support.ranks import ENVIRONMENT, ROOT
from tests.support.sft_files import sft_flags


def agents(folder: Path, flags: list[str]) -> list[subprocess.Popen[bytes]]:
    """Two that meet at one address; what both say is in the folder's log."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = f"--rdzv-backend=c10d --rdzv-id=job --rdzv-endpoint=127.0.0.1:{free.getsockname()[1]}"
    launch = f"-m torch.distributed.run --nnodes=2 --nproc-per-node=1 {meeting} -m stages.train"
    environment = {**os.environ, **ENVIRONMENT, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600"}
    with open(folder / "log", "a") as log:
        command = [sys.executable, *launch.split(), *flags]
        return [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) for _ in range(2)]


def said(folder: Path) -> str:
    return (folder / "log").read_text()


def wait(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 240
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def lose(agent: subprocess.Popen[bytes]) -> None:
    """What a node that breaks down takes with it: the agent and its rank."""
    for process in [*psutil.Process(agent.pid).children(recursive=True), psutil.Process(agent.pid)]:
        process.kill()


@pytest.mark.slow
def test_nodes_that_are_told_to_stop_save_and_when_one_is_lost_the_other_ends(tiny_model_dir, tmp_path):
    """What they leave goes on, and its steps are those of a training on one rank that nobody disturbed."""
    flags = {name: sft_flags(tmp_path / name, tiny_model_dir, epochs=20) for name in ("two", "one")}
    folder, checkpoints = tmp_path / "two", tmp_path / "two/checkpoints"
    stopped = agents(folder, flags["two"])
    wait(lambda: "step 3/" in said(folder))
    for agent in stopped:
        agent.send_signal(signal.SIGTERM)
    assert all(agent.wait(120) for agent in stopped)
    saved = int(re.search(r"stopped by SIGTERM after step (\d+); rerun to go on", said(folder))[1])
    lost, other = agents(folder, flags["two"])
    wait(lambda: f"training goes on after step {saved}\n" in said(folder) and f"step {saved + 5}/" in said(folder))
    lose(lost)
    assert other.wait(120) != 0
    assert max(int(path.name[-8:]) for path in checkpoints.iterdir() if path.name.startswith("step")) > saved
    for each in flags.values():
        cli.run(train.Args, train.main, each)
    expected, metrics = (read(tmp_path / name / "metrics.parquet", tables.TRAIN_METRICS) for name in ("one", "two"))
    assert metrics.select("step", "metric").equals(expected.select("step", "metric"))
    assert metrics["value"].to_list() == pytest.approx(expected["value"].to_list(), rel=1e-3, abs=1e-3)
