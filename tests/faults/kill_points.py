"""Kill points: a seed draws which job of a run is interrupted, when, and which processes get a SIGKILL.

python -m pytest tests/faults -m exhaustive -k "[17]"      the case of seed 17
"""

import contextlib
import os
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from stages.contracts.artifacts import read
from stages.inspection.artifact import TABLES
from stages.inspection.parquet import described
from tests.support.workflow_run import GUARD, ROOT, Run

MADE = {
    "ingest": ("prompts/pool.parquet", "prompts/ingest_ledger.parquet"),
    "select": ("iter-1/prompts.parquet",),
    "candidates": ("iter-1/candidates/000.parquet", "iter-1/candidate_prompts/000.parquet"),
    "judge": ("iter-1/judgements/000.parquet", "iter-1/judge_prompts/000.parquet"),
    "score": ("iter-1/votes.parquet", "iter-1/scores.parquet"),
    "meta_judge": ("iter-1/verdicts/000.parquet", "iter-1/meta_judge_prompts/000.parquet"),
    "rate": ("iter-1/battles.parquet", "iter-1/ratings.parquet"),
    "pairs": ("iter-1/pairs.parquet", "iter-1/pair_ledger.parquet"),
    "reference_logprobs": ("iter-1/reference_logprobs.parquet",),
    "train": ("models/1/manifest.json", "models/1/model.safetensors", "iter-1/train/metrics.parquet"),
    "evaluate": ("evaluation/0/evaluations.parquet", "evaluation/0/summary.parquet"),
}
"""What a job of each rule makes; the first of it is what Snakemake is asked for."""
HEAVY = ("candidates", "judge", "meta_judge", "train", "train")
"""Rules whose jobs keep what they have done are drawn more often."""
VICTIMS = ("job", "snakemake", "all")
"""One process of the job; Snakemake alone, whose job goes on; every process."""
CLOCKS = "speed.parquet"
"""The table of seconds."""


class Point(NamedTuple):
    """A kill."""

    rule: str
    victim: str
    share: float
    """When, as a share of the time that the job usually takes."""
    draw: float
    """Which process of several."""


def point(seed: int) -> Point:
    """The kill of a seed."""
    chance = random.Random(seed)
    return Point(chance.choice([*MADE, *HEAVY]), chance.choice(VICTIMS), chance.random(), chance.random())


def copied(undisturbed: Run, folder: Path, overlay: dict[str, Any]) -> Run:
    """A run of the same configuration in a folder of its own, with what the undisturbed one has made."""
    run = Run(folder, overlay)
    left_out = shutil.ignore_patterns("logs", "benchmarks", ".*", "checkpoints", "iter-2", "2")
    shutil.copytree(undisturbed.path, run.path, symlinks=True, ignore=left_out)
    return run


def content(run: Run) -> dict[str, str | bytes]:
    """By path the rows of all tables and the weights of models; and what hides, as partial files and journals do."""
    held: dict[str, str | bytes] = {}
    for path in sorted(run.path.rglob("*")):
        name = str(path.relative_to(run.path))
        if any(part[0] == "." for part in Path(name).parts):
            held |= {} if path.suffix == ".lock" else {name: "left behind"}
        elif path.suffix == ".parquet" and path.name != CLOCKS:
            held[name] = repr(read(path, TABLES[described(path).table]).rows())
        elif path.suffix == ".safetensors":
            held[name] = path.read_bytes()
    return held


def interrupted(run: Run, at: Point, usual: float) -> bool:
    """Let a rule make its files anew, and kill at a point of the `usual` seconds; whether anything was alive then."""
    for name in MADE[at.rule]:
        (run.path / name).unlink()
    with subprocess.Popen(
        command(run, at.rule),
        cwd=ROOT,
        env={**os.environ, **GUARD},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as snakemake:
        processes = psutil.Process(snakemake.pid)
        while not jobs(processes) and snakemake.poll() is None:
            time.sleep(0.02)
        time.sleep(at.share * usual)
        alive = jobs(processes)
        victims = {
            "job": alive[int(at.draw * len(alive)) :][:1],
            "snakemake": [processes],
            "all": [processes, *alive],
        }[at.victim]
        for victim in victims if alive else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                victim.kill()
    return bool(alive)


def jobs(snakemake: psutil.Process) -> list[psutil.Process]:
    """The processes of its jobs."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [one for one in snakemake.children(recursive=True) if "stages." in " ".join(one.cmdline())]
    return []


def command(run: Run, rule: str) -> list[str]:
    """What makes the files of a rule; the copy's are not those of another code because they lie elsewhere."""
    return run.command("--rerun-triggers", "mtime", "--", f"{run.path}/{MADE[rule][0]}")


def usual_seconds(run: Run, rule: str) -> float:
    """What a job of the rule took, as Snakemake wrote it down."""
    path = next(iter([*run.path.glob(f"benchmarks/{rule}.tsv"), *sorted(run.path.glob(f"benchmarks/{rule}/*.tsv"))]))
    return float(path.read_text().splitlines()[1].split()[0])
