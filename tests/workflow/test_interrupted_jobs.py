"""Jobs of a run that are killed or told to stop go on where they were; shards change nothing."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages import candidates, judge, tables
from stages.contracts import cli
from stages.contracts.artifacts import read
from stages.contracts.schema import Table
from tests.support.workflow_run import GUARD, ROOT, Run

pytestmark = pytest.mark.slow


KILLED = {
    "candidates": (candidates, "candidates", tables.CANDIDATES),
    "judge": (judge, "judgements", tables.JUDGEMENTS),
}


@pytest.mark.parametrize("stage", KILLED)
def test_a_killed_stage_goes_on_where_it_was(first_iteration, first_commands, stage, tmp_path, capsys):
    """SIGKILL once the journal has a part: the rerun asks for the rest only, and the rows are the same."""
    module, folder, table = KILLED[stage]
    flags = elsewhere(first_commands[stage], tmp_path)
    command = [sys.executable, "-m", f"stages.{stage}", *flags]
    killed = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **GUARD}, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*journal-*/part-*.parquet")) and time.monotonic() < deadline:
        assert killed.poll() is None, "finished before it could be killed"
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "out.parquet").exists()
    cli.run(module.Args, module.main, flags)
    done, total = map(int, re.findall(r"resuming: (\d+) of (\d+)", capsys.readouterr().err)[0])
    assert 0 < done < total
    same_rows(read(first_iteration.path / f"iter-1/{folder}/000.parquet", table), tmp_path / "out.parquet", table)


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
        while f"step {step}/" not in said(log):
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


def test_two_shards_or_three_give_the_same_candidates(first_iteration, first_commands, tmp_path):
    flags = elsewhere(first_commands["candidates"], tmp_path)
    for shard in range(3):
        part = {"--shards": "3", "--shard": str(shard), "--output": str(tmp_path / f"{shard}.parquet")}
        cli.run(candidates.Args, candidates.main, changed(flags, part))
    two = first_iteration.table("iter-1/candidates/*.parquet", tables.CANDIDATES)
    same_rows(two, sorted(tmp_path.glob("?.parquet")), tables.CANDIDATES)


@pytest.fixture(scope="module")
def first_commands(first_iteration):
    """The flags of each stage's first shard in iteration 1, as Snakemake prints them."""
    targets = [f"{first_iteration.path}/iter-1/{folder}/000.parquet" for _, folder, _ in KILLED.values()]
    printed = first_iteration.snakemake("-n", "-p", "--forcerun", *KILLED, "--", *targets)
    lines = [line.partition(" > ")[0] for line in printed.splitlines() if "/iter-1/" in line]
    return {
        stage: shlex.split(next(line.partition(call)[2] for line in lines if (call := f"-m stages.{stage} ") in line))
        for stage in KILLED
    }


def said(log: Path) -> str:
    """What a log says by now; Snakemake removes it when a job starts."""
    try:
        return log.read_text()
    except FileNotFoundError:
        return ""


def elsewhere(flags: list[str], folder: Path) -> list[str]:
    """The same, in small batches, with its output in another folder."""
    files = {"--output": str(folder / "out.parquet"), "--model-inputs": str(folder / "inputs.parquet")}
    return changed(flags, {**files, "--engine.batch-tokens": "2000"})


def changed(flags: list[str], values: dict[str, str]) -> list[str]:
    return [values.get(flag, value) for flag, value in zip(["", *flags], flags, strict=False)]


def same_rows(before: pl.DataFrame, paths: Any, table: Table) -> None:
    """The same keys and seeds; a text may differ where another batch rounds in another way."""
    keys = [*table.key, "seed"]
    before, after = before.sort(table.key), read(paths, table).sort(table.key)
    assert after.select(keys).equals(before.select(keys))
    assert (after["text"] == before["text"]).mean() >= 0.999
