"""Leases of GPUs, among processes on a machine whose devices are made up."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.contracts import gpus, locks
from stages.contracts.errors import StageError

ROOT = Path(__file__).parents[2]
SCHEDULED = ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_GPUS", gpus.COUNT_VARIABLE, *locks.ALLOCATIONS)
USE = """
import os, sys, time
from pathlib import Path
mine = [Path(name) for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
for device in mine:
    device.touch(exist_ok=False)
time.sleep(float(sys.argv[1]))
for device in mine:
    device.unlink()
print(",".join(device.name for device in mine), flush=True)
"""
"""Fails if another one uses one of its devices."""
HOLD = "import os, time; print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(600)"


class Machine:
    """Programs on a machine with so many devices."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder, self.count, self.running = folder, count, list[subprocess.Popen[str]]()

    def start(self, count: int, *command: str, **variables: str) -> "subprocess.Popen[str]":
        clean = {name: value for name, value in os.environ.items() if name not in SCHEDULED}
        own = {"TMPDIR": str(self.folder), "PYTHONPATH": str(ROOT), gpus.COUNT_VARIABLE: str(self.count)}
        program = [sys.executable, "-m", "stages.contracts.gpus", str(count), sys.executable, "-c", *command]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(program, cwd=self.folder, env=clean | own | variables, **pipes)
        self.running.append(process)
        return process


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Two devices."""
    machine = Machine(tmp_path, 2)
    yield machine
    for process in machine.running:
        process.kill()
        process.communicate()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_four_jobs_on_two_devices_never_share_and_say_at_most_once_that_they_wait(machine: Machine) -> None:
    jobs = [machine.start(1, USE, "1") for _ in range(4)]
    done = [job.communicate(timeout=60) for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 4, done
    assert {out.strip() for out, _ in done} == {"0", "1"}
    assert {error for _, error in done} <= {"", "waiting for 1 of the GPUs 0, 1 to be free\n"}


def test_jobs_that_need_both_devices_take_turns_among_those_that_need_one(machine: Machine) -> None:
    jobs = [machine.start(count, USE, "0.1") for count in (2, 1, 2, 1, 2)]
    done = [job.communicate(timeout=60) for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 5, done
    assert [out.strip() for out, _ in done][::2] == ["0,1"] * 3


def test_no_job_of_one_passes_a_job_that_waits_for_two(machine: Machine) -> None:
    first = machine.start(1, HOLD)
    assert line(first) == "0"
    both = machine.start(2, HOLD)
    assert both.stderr is not None
    assert "waiting" in both.stderr.readline()
    late = machine.start(1, HOLD)
    assert late.stderr is not None
    assert "waiting" in late.stderr.readline()
    first.kill()
    assert line(both) == "0,1"
    both.kill()
    assert line(late) in ("0", "1")


def test_a_killed_job_frees_its_own(machine: Machine) -> None:
    first, second = machine.start(1, HOLD), machine.start(1, HOLD)
    assert {line(first), line(second)} == {"0", "1"}
    waiting = machine.start(1, HOLD)
    os.kill(first.pid, signal.SIGKILL)
    assert line(waiting) in ("0", "1")
    assert second.poll() is None


def test_a_rank_holds_the_lease_when_what_started_it_is_gone(machine: Machine) -> None:
    machine.count = 1
    fork = "import os, sys, time; rank = os.fork(); print(rank, flush=True) if rank else time.sleep(600)"
    first = machine.start(1, fork)
    rank = int(line(first))
    first.wait()
    waiting = machine.start(1, HOLD)
    assert waiting.stderr is not None
    assert "waiting" in waiting.stderr.readline()
    os.kill(rank, signal.SIGKILL)
    assert line(waiting) == "0"


def test_what_a_scheduler_assigned_is_all_there_is(machine: Machine) -> None:
    allocation = {"CUDA_VISIBLE_DEVICES": "5,7", "SLURM_JOB_ID": "12"}
    first, second = (machine.start(1, HOLD, **allocation) for _ in range(2))
    assert {line(first), line(second)} == {"5", "7"}
    # Another job's devices bear the same numbers where each job sees its own alone.
    other = machine.start(2, HOLD, **allocation | {"SLURM_JOB_ID": "13"})
    assert line(other) == "5,7"
    third = machine.start(3, HOLD, **allocation)
    assert third.wait(timeout=60) == 1
    assert third.stderr is not None
    assert third.stderr.read() == "error: 3 GPUs are needed, but there are only 2 here: 5, 7\n"


@pytest.mark.parametrize("nothing", [{gpus.COUNT_VARIABLE: "0"}, {"CUDA_VISIBLE_DEVICES": ""}])
def test_without_gpus_the_command_runs_as_it_is(machine: Machine, nothing: dict[str, str]) -> None:
    job = machine.start(1, "import os; print(os.environ.get('CUDA_VISIBLE_DEVICES'))", **nothing)
    assert line(job) == str(nothing.get("CUDA_VISIBLE_DEVICES"))


def test_devices_are_counted_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SCHEDULED:
        monkeypatch.delenv(name, raising=False)
    listed = "GPU 0: NVIDIA X (UUID: GPU-1)\n  MIG 1g.10gb Device 0: (UUID: MIG-2)\nGPU 1: NVIDIA X (UUID: GPU-3)"
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\n[ "$1" = -L ] && echo "{listed}"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert gpus.devices() == ["0", "1"]


@pytest.mark.parametrize(
    ("assigned", "usable"),
    [("3", ["3"]), ("GPU-ab, MIG-cd", ["GPU-ab", "MIG-cd"]), ("-1", []), ("NoDevFiles", [])],
)
def test_an_assignment_is_read_as_cuda_reads_it(
    assigned: str, usable: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", assigned)
    assert gpus.devices() == usable


def test_a_lease_takes_no_time_where_devices_are_free(tmp_path: Path) -> None:
    started = time.monotonic()
    assert list(gpus.lease(2, ["0", "1"], tmp_path)) == ["0", "1"]
    assert time.monotonic() - started < gpus.WAIT_SECONDS


def test_too_few_devices_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(StageError, match="2 GPUs are needed, but there are only 1 here: 0"):
        gpus.prepare(2)
