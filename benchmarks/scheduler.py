"""What Snakemake itself costs per job: an iteration of many shards whose jobs do nothing but write empty files.

    .venv/bin/python -m benchmarks.scheduler --shards 100 300 1000

Candidates and judgements of each shard are two jobs. In the place of Python a shell script runs that makes each output
which is not there yet, so that what is measured is planning, starting and booking of jobs. Results go to
benchmarks/results/scheduler.json.
"""

import argparse
import datetime
import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import snakemake
import yaml

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "benchmarks/results/scheduler.json"
NOTHING = """#!/bin/sh
for word; do
    case $flag in
        --output|--model-inputs|--prompts|--ledger|--votes|--scores) [ -e "$word" ] || : > "$word" ;;
    esac
    flag=$word
done
"""
"""A program that has a stage's outputs and none of its work."""


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[100, 300, 1000])
    parser.add_argument("--cores", type=int, default=2, help="jobs at a time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [measured(Path(folder), shards, options.cores) for shards in options.shards]
    result = {
        "date": datetime.date.today().isoformat(),
        "snakemake": snakemake.__version__,
        "python": platform.python_version(),
        "cores": options.cores,
        "runs": rows,
    }
    OUTPUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def measured(folder: Path, shards: int, cores: int) -> dict[str, Any]:
    """Seconds of a dry run and of a run, their CPU-seconds, and both for each job."""
    program = folder / "bin/python"
    program.parent.mkdir(exist_ok=True)
    program.write_text(NOTHING)
    program.chmod(0o755)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings(folder, shards, program)))
    jobs = 2 * shards + 5
    planning = timed(folder, shards, "--dry-run")
    running = timed(folder, shards, "--cores", str(cores))
    return {
        "shards": shards,
        "jobs": jobs,
        "dry_run_seconds": round(planning[0], 2),
        "seconds": round(running[0], 2),
        "cpu_seconds": round(running[1], 2),
        "seconds_per_job": round((running[0] - planning[0]) / jobs, 4),
    }


def settings(folder: Path, shards: int, program: Path) -> dict[str, Any]:
    """The demo without EFT, in so many shards."""
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
    config["run"] |= {"name": f"of-{shards}", "results": str(folder / "results"), "shards": shards, "iterations": 1}
    config["eft"], config["select"] = {"enabled": False}, {"prompts": shards}
    config["evaluate"] |= {"meta_comparisons": 0}
    config["environments"] = {name: {"python": str(program)} for name in ("generate", "data")}
    return dict(config)


def timed(folder: Path, shards: int, *flags: str) -> tuple[float, float]:
    """Wall and CPU seconds of Snakemake with its jobs."""
    target = folder / f"results/of-{shards}/iter-1/scores.parquet"
    command = [sys.executable, "-m", "snakemake", "--configfile", str(folder / "config.yaml"), "--quiet", "all", *flags]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([*command, str(target)], cwd=ROOT, check=True, capture_output=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
