"""What an iteration costs that has next to nothing to do: each stage of the demo on four prompts, in CPU-seconds.

    .venv/bin/python -m benchmarks.fixed_costs

That is the price of many small iterations (semi-online training): Python, libraries and ranks start, models load. A
shell script in the place of Python starts the same program and notes its times. Results go to
benchmarks/results/fixed_costs.json.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "benchmarks/results/fixed_costs.json"
TIMED = """#!/bin/bash
TIMEFORMAT="$2 %U %S %R"
{{ time {python} "$@" 2>&3; }} 3>&2 2>> {notes}
"""
SMALL: dict[str, Any] = {
    "run": {"iterations": 1, "shards": 1},
    "eft": {"enabled": False},
    "select": {"prompts": 4},
    "pairs": {"judge_share": 0.0},
    "evaluate": {"max_prompts": 4, "samples": 1, "meta_comparisons": 0},
}


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="runs, of which the median is taken")
    options = parser.parse_args()
    rounds = [one_run() for _ in range(options.rounds)]
    stages = {name: statistics.median(times[name] for times in rounds) for name in rounds[0]}
    result = {
        "date": datetime.date.today().isoformat(),
        "rounds": options.rounds,
        "cpu_seconds": {name: round(value, 2) for name, value in stages.items()},
        "iteration": round(sum(stages.values()), 1),
    }
    OUTPUT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def one_run() -> dict[str, float]:
    """CPU-seconds of each stage, in the order in which they ended."""
    with tempfile.TemporaryDirectory() as folder:
        program, notes = Path(folder, "bin/python"), Path(folder, "notes")
        program.parent.mkdir()
        program.write_text(TIMED.format(python=sys.executable, notes=notes))
        program.chmod(0o755)
        config = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
        for section, values in SMALL.items():
            config[section] = {**config[section], **values}
        config["run"] |= {"name": "small", "results": folder}
        config["environments"] = {name: {"python": str(program)} for name in ("generate", "train", "data")}
        file = Path(folder, "config.yaml")
        file.write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "snakemake", "--configfile", str(file), "--cores", "1"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        found: dict[str, float] = {}
        for line in notes.read_text().splitlines():
            name, user, system, _ = line.split()
            if name != "stages.contracts.gpus":  # which starts the stage, and holds its GPUs
                found[name] = found.get(name, 0.0) + float(user) + float(system)
        return found


if __name__ == "__main__":
    main()
