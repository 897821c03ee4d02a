"""One Snakemake per run folder, and none beside the jobs that a killed one left behind."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


LOCKLESS = """
import errno, fcntl

def refuse(file, kind):
    raise OSError(errno.ENOLCK, "No locks available")

fcntl.flock = refuse
"""
"""`sitecustomize` of Pythons on a file system like Lustre mounted without `flock`."""


def ingest(results: Path, *imported_from: Path) -> subprocess.Popen[str]:
    """A Snakemake at its first job."""
    command = [Path(sys.executable).with_name("snakemake"), results / "tinyworld/prompts/pool.parquet", "--cores", "1"]
    settings = results.parent / "settings.yaml"
    settings.write_text(f"run: {{results: {results}}}")
    command += ["--configfile", "config/config.yaml", settings, "--quiet", "rules", "host", "reason"]
    environment = {**os.environ, "PYTHONPATH": ":".join(map(str, [*imported_from, ROOT]))}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def held(lock: Path) -> bool:
    """Whether any process holds a lock."""
    if not lock.exists():
        return False
    with open(lock) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_job_holds_its_runs_lock_and_a_run_waits_for_the_jobs_of_another(tmp_path: Path) -> None:
    lock = tmp_path / "results/tinyworld/.jobs.lock"
    running, seen = ingest(tmp_path / "results"), False
    while running.poll() is None:
        seen = seen or held(lock)
        time.sleep(0.01)
    assert running.returncode == 0
    assert seen
    (tmp_path / "results/tinyworld/prompts/pool.parquet").unlink()
    with open(lock) as left_behind:
        fcntl.flock(left_behind, fcntl.LOCK_SH)
        waiting = ingest(tmp_path / "results")
        told = next(line for line in waiting.stderr if "waiting for the jobs of a killed run" in line)  # type: ignore[union-attr]
    assert told
    _, rest = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, rest
    assert (tmp_path / "results/tinyworld/prompts/pool.parquet").exists()


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "results/tinyworld"
    folder.mkdir(parents=True)
    with open(folder / ".run.lock", "a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        second = ingest(tmp_path / "results")
        _, told = second.communicate(timeout=60)
    assert second.returncode != 0
    assert f"another Snakemake works in {folder}; wait for it" in told


def test_where_there_are_no_locks_a_run_says_so_and_works(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LOCKLESS)
    run = ingest(tmp_path / "results", tmp_path)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 0, told
    assert f"{tmp_path}/results/tinyworld: this file system has no locks (No locks available)" in told
    assert (tmp_path / "results/tinyworld/prompts/pool.parquet").exists()
