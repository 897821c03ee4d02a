"""A training over two nodes of a real Slurm, through the rule's own srun, one of which is lost."""

import shutil
from pathlib import Path

import psutil
import pytest

from tests.support.slurm_cluster import Job, jobs, until
from tests.support.slurm_run import SMALL, log, model, on_slurm, processes, same_tables, started
from tests.support.workflow_run import Run, merge

pytestmark = pytest.mark.slow

TWO_NODES = merge(SMALL, {"megatron": {"nodes": 2, "processes": 1}})


def test_a_training_that_loses_a_node_ends_and_goes_on_with_two(undisturbed: Run, tmp_path: Path) -> None:
    """The other one does not wait for it. The next try makes the weights of one node."""
    run = Run(tmp_path, TWO_NODES)
    for part in ("prompts", "models/0", "iter-1"):
        shutil.copytree(undisturbed.path / part, run.path / part, symlinks=True, ignore=shutil.ignore_patterns("train"))
    with started(on_slurm(run, "--rerun-triggers", "mtime"), tmp_path / "told") as snakemake:
        until(lambda: "step 12/" in log(run, "train/1"), 240)
        agent = psutil.Process(processes(f"python[^ ]* [^ ]*torchrun --nnodes 2 .*{model(run)}")[0])
        for part in [*agent.children(recursive=True), agent]:
            part.kill()
        assert snakemake.wait() == 0, (tmp_path / "told").read_text()[-3000:]
    assert "training goes on after step 10\n" in log(run, "train/1")
    same_tables(run, undisturbed)
    lost, found = trainings()[-2:]
    assert (lost.state, found.state) == ("FAILED", "COMPLETED")
    assert (found.gpus, found.cpus, found.nodes) == ("gres:gpu:2", "128", "2")


def trainings() -> list[Job]:
    """The jobs of the rule, in order."""
    return [job for job in jobs() if job.rule == "rule_train_wildcards_1"]
