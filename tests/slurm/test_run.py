"""The demo's first iteration through the Slurm profile, on a real Slurm, with all that a cluster does to jobs."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.support.slurm_cluster import jobs, said, until
from tests.support.slurm_run import SMALL, log, model, on_slurm, processes, same_tables, started
from tests.support.workflow_run import Run

pytestmark = pytest.mark.slow

CANDIDATES, JUDGE = "rule_candidates_wildcards_1_00{}", "rule_judge_wildcards_1_00{}_"
REFERENCE, TRAIN = "rule_reference_logprobs_wildcards_1", "rule_train_wildcards_1"


def test_jobs_that_are_cancelled_killed_and_preempted_change_nothing(undisturbed: Run, tmp_path: Path) -> None:
    """Snakemake asks again for what failed, and a training goes on where it was."""
    run, earlier = Run(tmp_path, SMALL), {job.number for job in jobs()}
    with started(on_slurm(run), tmp_path / "told") as snakemake:
        until(lambda: samplers(run, 0) and samplers(run, 1))
        said("scancel", str(running_job(CANDIDATES.format(0))))
        os.kill(samplers(run, 1)[0], signal.SIGKILL)
        until(lambda: "step 3/" in log(run, "train/1"), 400)
        said("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap=sleep 1")
        assert snakemake.wait() == 0, (tmp_path / "told").read_text()[-3000:]
    assert "training goes on after step " in log(run, "train/1")
    same_tables(run, undisturbed)
    assert "Nothing to be done" in run.snakemake("-n", "--", str(model(run)))
    mine = [job for job in jobs() if job.rule.startswith("rule_") and job.number not in earlier]
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


def running_job(rule: str) -> int:
    """The number of the job of a rule."""
    return next(job.number for job in jobs() if job.rule == rule and job.state == "RUNNING")


def samplers(run: Run, shard: int) -> list[int]:
    """The program that samples candidates of a shard, if it runs."""
    return processes(f"python -m stages.candidates .*{run.path}/iter-1/candidates/00{shard}")
