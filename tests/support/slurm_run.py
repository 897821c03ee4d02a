"""The demo's first iteration, small, and on Slurm: what it is asked with, and what it must come to."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from stages import tables
from tests.support.slurm_cluster import said
from tests.support.workflow_run import GUARD, NO_EFT, ROOT, Run, merge

SMALL = merge(
    NO_EFT,
    {
        "run": {"iterations": 1, "name": "small"},
        "select": {"prompts": 16},
        "meta_judge": {"enabled": False},
        "pairs": {"judge_share": 0.0},
        "judge": {"votes": 2},
        "train": {"epochs": 10, "batch_size": 4, "checkpoint_every_steps": 10},
    },
)
PARTITIONS = "partitions: {cpu: {}, gpu: {max_gpu: 2}}"
"""What a site says of itself. With it the plugin finds a job's partition."""
OUTCOMES = {
    "candidates/*": tables.CANDIDATES,
    "judgements/*": tables.JUDGEMENTS,
    "scores": tables.SCORES,
    "pairs": tables.PAIRS,
    "reference_logprobs": tables.REFERENCE_LOGPROBS,
    "train/metrics": tables.TRAIN_METRICS,
}


def model(run: Run) -> Path:
    """The file that says that the first iteration is over."""
    return run.path / "models/1/manifest.json"


def on_slurm(run: Run, *arguments: str) -> list[str]:
    """The command of a user whose cluster has as many cores as it likes, and who asks often."""
    partitions = run.folder / "partitions.yaml"
    partitions.write_text(PARTITIONS)
    profile = ("--workflow-profile", "slurm", "--slurm-partition-config", str(partitions))
    often = ("--slurm-init-seconds-before-status-checks", "2")
    return run.command("--cores", "1000", *profile, *often, *arguments, "--", str(model(run)))


@contextlib.contextmanager
def started(command: list[str], told: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Snakemake, which does not outlive the test."""
    with open(told, "w") as file:
        running = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **GUARD}, stdout=file, stderr=file)
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def processes(words: str) -> list[int]:
    """The programs whose command begins with such words, after the path of the first one."""
    return [int(number) for number in said("pgrep", "--full", f"^[^ ]*{words}").split()]


def log(run: Run, name: str) -> str:
    """What a log says by now; Snakemake removes it when a job starts."""
    path = run.path / f"logs/{name}.log"
    return path.read_text() if path.exists() else ""


def same_tables(run: Run, expected: Run) -> None:
    """All rows, and the weights bit by bit."""
    for name, table in OUTCOMES.items():
        before, after = (each.table(f"iter-1/{name}.parquet", table).sort(table.key) for each in (expected, run))
        assert after.equals(before), name
    weights = [(each.path / "models/1/model.safetensors").read_bytes() for each in (expected, run)]
    assert weights[0] == weights[1]
