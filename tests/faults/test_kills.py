"""A SIGKILL anywhere in a run loses nothing: the same command ends with the rows and weights of an undisturbed run."""

import os
import subprocess

import pytest

from tests.faults.kill_points import command, content, copied, interrupted, point, usual_seconds
from tests.support.workflow_run import GUARD, NO_EFT, ROOT, Run, merge

pytestmark = pytest.mark.slow

SMALL = merge(
    NO_EFT,
    {
        "run": {"iterations": 1},
        "select": {"prompts": 12},
        "train": {"epochs": 1, "batch_size": 4, "checkpoint_every_steps": 1},
        "meta_judge": {"enabled": True},
        "pairs": {"judge_share": 0.2},
        "evaluate": {"max_prompts": 6, "samples": 1, "judge_votes": 1},
    },
)
"""A run of which each job is over in seconds."""
FEW, ALL = (3, 5), range(100)
"""Seeds: of the usual suite, and of the exhaustive one."""


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The small run, undisturbed."""
    run = Run(tmp_path_factory.mktemp("small"), SMALL)
    run.snakemake()
    return run


def check(undisturbed: Run, run: Run, seed: int) -> None:
    """Kill at a seed's point and run the same command: every table and all weights are those from before.

    So are those that later jobs make of them: a job is a function of its files.
    """
    before, at = content(run), point(seed)
    if not interrupted(run, at, usual_seconds(undisturbed, at.rule)):
        print(f"{at}: the job was over")
    rerun = subprocess.run(
        command(run, at.rule), cwd=ROOT, env={**os.environ, **GUARD}, capture_output=True, text=True, check=False
    )
    assert rerun.returncode == 0, f"seed {seed}, {at}: {rerun.stderr[-3000:]}"
    after = content(run)
    differing = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    assert differing == [], f"seed {seed}, {at}"


@pytest.mark.parametrize("seed", FEW)
def test_a_kill_in_the_demo_changes_no_row(first_iteration, tmp_path, seed):
    check(first_iteration, copied(first_iteration, tmp_path, {}), seed)


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", ALL)
def test_a_kill_in_a_small_run_changes_no_row(small, tmp_path, seed):
    check(small, copied(small, tmp_path, SMALL), seed)
