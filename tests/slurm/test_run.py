"""The demo's first iteration through the Slurm profile as it is, on a real Slurm, with all that a cluster does to jobs."""

import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages import tables
from tests.support.slurm_cluster import jobs, said, until
from tests.support.workflow_run import GUARD, NO_EFT, ROOT, Run, merge

pytestmark = pytest.mark.slow

SMALL = {
    "run": {"iterations": 1, "name": "small"},
    "select": {"prompts": 16},
    "meta_judge": {"enabled": False},
    "pairs": {"judge_share": 0.0},
    "judge": {"votes": 2},
    "train": {"epochs": 10, "batch_size": 4, "checkpoint_every_steps": 100},
}
PARTITIONS = "partitions: {cpu: {}, gpu: {max_gpu: 2}}"
"""What a site says of itself. With it the plugin finds a job's partition."""
FREQUENT = ("--slurm-init-seconds-before-status-checks", "6")
OUTCOMES = {
    "candidates/*": tables.CANDIDATES,
    "judgements/*": tables.JUDGEMENTS,
    "scores": tables.SCORES,
    "pairs": tables.PAIRS,
    "reference_logprobs": tables.REFERENCE_LOGPROBS,
    "train/metrics": tables.TRAIN_METRICS,
}
CANDIDATES, JUDGE = "rule_candidates_wildcards_1_00{}", "rule_judge_wildcards_1_00{}_"
REFERENCE, TRAIN = "rule_reference_logprobs_wildcards_1", "rule_train_wildcards_1"


def model(run: Run) -> Path:
    return run.path / "models/1/manifest.json"


@pytest.fixture(scope="module")
def undisturbed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same without any cluster."""
    run = Run(tmp_path_factory.mktemp("undisturbed"), merge(NO_EFT, SMALL))
    run.snakemake("--", str(model(run)))
    return run


def on_slurm(run: Run, *arguments: str) -> list[str]:
    """The command of a user, whose cluster has as many cores as it likes."""
    partitions = run.folder / "partitions.yaml"
    partitions.write_text(PARTITIONS)
    profile = ("--workflow-profile", "slurm", "--slurm-partition-config", str(partitions))
    return run.command("--cores", "1000", *profile, *FREQUENT, *arguments)


def test_jobs_that_are_cancelled_killed_and_preempted_change_nothing(undisturbed: Run, tmp_path: Path) -> None:
    """Snakemake asks again for what failed, and each job goes on where it was."""
    run = Run(tmp_path, merge(NO_EFT, SMALL))
    command = on_slurm(run, "--", str(model(run)))
    with started(command, tmp_path / "told") as running:
        for shard in (0, 1):
            until(lambda: process(run, shard))
        said("scancel", str(running_job(CANDIDATES.format(0))))
        os.kill(process(run, 1), signal.SIGKILL)
        until(lambda: "step 3/" in log(run, "train/1"), 400)
        said("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
        assert running.wait() == 0, (tmp_path / "told").read_text()[-3000:]
    assert "training goes on after step " in log(run, "train/1")
    same_tables(run, undisturbed)
    assert "Nothing to be done" in run.snakemake("-n", "--", str(model(run)))
    mine = [job for job in jobs() if job.rule.startswith("rule_")]
    assert Counter((job.rule, job.state) for job in mine) == {
        (CANDIDATES.format(0), "CANCELLED"): 1,
        (CANDIDATES.format(0), "COMPLETED"): 1,
        (CANDIDATES.format(1), "FAILED"): 1,
        (CANDIDATES.format(1), "COMPLETED"): 1,
        (JUDGE.format(0), "COMPLETED"): 1,
        (JUDGE.format(1), "COMPLETED"): 1,
        (REFERENCE, "COMPLETED"): 1,
        (TRAIN, "FAILED"): 1,
        (TRAIN, "COMPLETED"): 1,
    }
    assert [job.limit for job in mine if job.rule == TRAIN] == ["8:00:00", "16:00:00"]
    assert {(job.rule, job.gpus) for job in mine} >= {(CANDIDATES.format(0), "gres:gpu:1"), (TRAIN, "gres:gpu:2")}
    assert {job.partition for job in mine} == {"gpu"}


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


def running_job(rule: str) -> int:
    return next(job.number for job in jobs() if job.rule == rule and job.state == "RUNNING")


def process(run: Run, shard: int) -> int:
    """The program that samples candidates of a shard, if it runs."""
    found = said("pgrep", "--full", f"^[^ ]*python -m stages.candidates .*{run.path}/iter-1/candidates/00{shard}")
    return int(found.split()[0]) if found else 0


def log(run: Run, name: str) -> str:
    """What a log says by now; Snakemake removes it when a job starts."""
    path = run.path / f"logs/{name}.log"
    return path.read_text() if path.exists() else ""


def same_tables(run: Run, expected: Run) -> None:
    """All rows, and the weights bit by bit."""
    for name, table in OUTCOMES.items():
        before, after = (each.table(f"iter-1/{name}.parquet", table).sort(table.key) for each in (expected, run))
        assert after.select(table.key).equals(before.select(table.key)), name
        columns = [column for column in before.columns if "second" not in column]
        assert after.select(columns).equals(before.select(columns)), name
    weights = [(each.path / "models/1/model.safetensors").read_bytes() for each in (expected, run)]
    assert weights[0] == weights[1]
