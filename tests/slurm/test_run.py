"""The demo's first iteration through the Slurm profile as it is, on a real Slurm, with all that a cluster does to jobs."""

import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from stages import tables
from tests.support.slurm_cluster import jobs, said, until
from tests.support.workflow_run import GUARD, NO_EFT, ROOT, Run, merge

pytestmark = pytest.mark.slow

SMALL = {
    "run": {"iterations": 1, "name": "small"},
    "engine": {"batch_tokens": 800},
    "meta_judge": {"enabled": False},
    "pairs": {"judge_share": 0.0},
    "judge": {"votes": 1, "engine": {"batch_tokens": 16384}},
    "train": {"epochs": 6, "batch_size": 8, "checkpoint_every_steps": 100},
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
    with open(tmp_path / "told", "w") as told:
        running = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **GUARD}, stdout=told, stderr=told)
    until(lambda: begun(run, "000"))
    said("scancel", str(number(CANDIDATES.format(0))))
    until(lambda: begun(run, "001"))
    os.kill(process("stages.candidates", f"{run.path}/iter-1/candidates/001"), signal.SIGKILL)
    until(lambda: "step 3/" in log(run, "train/1"), 240)
    said("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
    assert running.wait() == 0, (tmp_path / "told").read_text()[-3000:]
    for shard in ("000", "001"):
        assert "resuming: " in log(run, f"candidates/1-{shard}")
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


def begun(run: Run, shard: str) -> bool:
    """Whether a shard's journal has a part."""
    return bool(list((run.path / "iter-1/candidates").glob(f".{shard}*journal-*/part-*.parquet")))


def number(rule: str) -> int:
    return next(job.number for job in jobs() if job.rule == rule and job.state == "RUNNING")


def process(*words: str) -> int:
    """The first program whose command has these words in it, in this order."""
    return int(said("pgrep", "--full", f"^[^ ]*python .*{'.*'.join(words)}").split()[0])


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
