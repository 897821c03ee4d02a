"""Clocks that jump, and two Snakemakes at once: time stamps never make a run wrong, at most they make it work again."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.faults.kill_points import content, copied
from tests.support.workflow_run import GUARD, NO_EFT, ROOT, Run

pytestmark = pytest.mark.slow

DAY = 86_400
PAIRS, RATINGS = "iter-1/pairs.parquet", "iter-1/ratings.parquet"


@pytest.fixture
def run(first_iteration, tmp_path):
    """In a folder that Snakemake has never seen: of what it made it keeps digests, and goes by those."""
    return copied(first_iteration, Path(tempfile.mkdtemp(dir=tmp_path)), {})


def shift(path: Path, seconds: float) -> None:
    """Let a file be of a clock that was wrong by so many seconds."""
    stamp = path.stat().st_mtime + seconds
    os.utime(path, (stamp, stamp))


def made(run: Run) -> subprocess.CompletedProcess[str]:
    command = run.command("--rerun-triggers", "mtime", "--", str(run.path / PAIRS))
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **GUARD}, capture_output=True, text=True, check=False)


def test_an_output_that_seems_older_than_its_inputs_is_made_again_and_is_the_same(run):
    before = content(run)
    shift(run.path / PAIRS, -DAY)
    done = made(run)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Finished jobid: 0 (Rule: pairs)" in done.stderr, done.stderr[-2500:]
    assert content(run) == before


def test_an_input_of_tomorrow_is_named_and_the_run_is_the_same_once_it_is_touched(run):
    """Else all that is made of it would seem too old, and be made again forever."""
    before = content(run)
    shift(run.path / RATINGS, DAY)
    refused = made(run)
    assert refused.returncode == 1, refused.stderr[-1500:]
    assert f"than input {run.path / RATINGS}" in refused.stderr
    assert "This could indicate a clock skew problem" in refused.stderr
    (run.path / RATINGS).touch()
    done = made(run)
    assert done.returncode == 0, done.stderr[-2000:]
    assert content(run) == before


def test_of_two_snakemakes_started_at_once_one_works_and_the_other_says_why_not(tmp_path):
    run = Run(tmp_path, NO_EFT)
    pool = run.path / "prompts/pool.parquet"
    command = run.command("--", str(pool))
    both = [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, **GUARD}, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [one.communicate(timeout=600)[1] for one in both]
    codes = [one.returncode for one in both]
    refused = [text for text, code in zip(told, codes, strict=True) if code]
    assert 0 in codes
    # Where the first was done before the second began, that one had nothing to do.
    assert all(
        f"another Snakemake works in {run.path}; wait for it, or set another run.name" in text for text in refused
    )
    assert [name for name in content(run) if "pool" in name] == ["prompts/pool.parquet"]
