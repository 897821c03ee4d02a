"""Jobs of a run that are killed or told to stop go on where they were."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages import tables
from stages.contracts.artifacts import read
from tests.support.workflow_run import GUARD, ROOT, Run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("stage", ["candidates", "judge"])
def test_a_killed_stage_goes_on_where_it_was(first_iteration, stage, tmp_path):
    """SIGKILL once the journal has a part: the rerun asks for the rest only, and the rows are the same."""
    table = {"candidates": tables.CANDIDATES, "judge": tables.JUDGEMENTS}[stage]
    folder = {"candidates": "candidates", "judge": "judgements"}[stage]
    command = stage_command(first_iteration, stage, tmp_path)
    environment = {**os.environ, **GUARD}
    killed = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*journal-*/part-*.parquet")) and time.monotonic() < deadline:
        assert killed.poll() is None, "finished before it could be killed"
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "out.parquet").exists()
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    done, total = map(int, re.findall(r"resuming: (\d+) of (\d+)", again.stderr)[0])
    assert 0 < done < total
    before = read(first_iteration.path / f"iter-1/{folder}/000.parquet", table)
    after = read(tmp_path / "out.parquet", table)
    keys = [*table.key, "seed"]
    assert after.select(keys).equals(before.select(keys))
    assert (after["text"] == before["text"]).mean() >= 0.999


def test_a_stopped_and_a_killed_training_end_with_the_same_model(first_iteration, tmp_path):
    """In the middle of `train` all processes get SIGTERM, as a cluster sends it: Snakemake waits until the training has
    saved. Those of the next try get SIGKILL. The same command goes on after either."""
    run = Run(tmp_path, {"train": {"checkpoint_every_steps": 2}})
    shutil.copytree(first_iteration.path / "iter-1", run.path / "iter-1", ignore=shutil.ignore_patterns("train"))
    shutil.copytree(first_iteration.path / "models/0", run.path / "models/0", symlinks=True)
    shutil.copytree(first_iteration.path / "prompts", run.path / "prompts")
    command = run.command("--rerun-triggers", "mtime", "--", f"{run.path}/models/1/manifest.json")
    environment = {**os.environ, **GUARD}
    log = run.path / "logs/train/1.log"

    def interrupt(number: signal.Signals, step: int) -> None:
        job = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 600
        while not (log.exists() and f"step {step}/" in log.read_text()):
            assert job.poll() is None, "finished before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if number == signal.SIGKILL:  # the ranks are no part of the group, and who is killed tells them nothing
            subprocess.run(["pkill", "-9", "-f", f"stages.train .*{run.path}"], check=True)
        os.killpg(job.pid, number)
        job.wait()
        assert not (run.path / "models/1/manifest.json").exists()

    interrupt(signal.SIGTERM, 3)
    stopped = int(re.search(r"stopped by SIGTERM after step (\d+); rerun to go on", log.read_text())[1])
    interrupt(signal.SIGKILL, stopped + 4)
    assert f"training goes on after step {stopped}\n" in log.read_text()
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert int(re.search(r"training goes on after step (\d+)\n", log.read_text())[1]) > stopped
    weights = [(result.path / "models/1/model.safetensors").read_bytes() for result in (first_iteration, run)]
    assert weights[0] == weights[1]


def stage_command(run: Run, stage: str, output: Path) -> list[str]:
    """The command of the first shard in iteration 1 as Snakemake prints it, writing elsewhere, in small batches."""
    target = {"candidates": "candidates", "judge": "judgements"}[stage]
    printed = run.snakemake("-n", "-p", "--forcerun", stage, "--", f"{run.path}/iter-1/{target}/000.parquet")
    line = next(line for line in printed.splitlines() if f"-m stages.{stage} " in line)
    words = line[line.index("python -m") :].partition(" > ")[0].replace("python -m", f"{sys.executable} -m")
    words = re.sub(r"--output \S+", f"--output {output / 'out.parquet'}", words)
    words = re.sub(r"--model-inputs \S+", f"--model-inputs {output / 'inputs.parquet'}", words)
    words = re.sub(r"--engine.batch-tokens \S+", "--engine.batch-tokens 2000", words)
    return shlex.split(words)
