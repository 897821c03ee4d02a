"""A run of the demo's workflow in a folder of its own, small enough for a test."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import yaml

from stages.contracts.artifacts import read

ROOT = Path(__file__).parents[2]
GUARD = {"PYTHONPATH": str(ROOT / "tests/support/oracle_guard"), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
QUICK = {
    "select": {"prompts": 80},
    "train": {"epochs": 3, "batch_size": 16, "optimizer": {"learning_rate": 2.0e-4}},
    "run": {"iterations": 2, "name": "quick"},
    "meta_judge": {"enabled": [True, False]},
    "pairs": {"judge_share": [0.2, 0.0]},
    "eft": {"test_fraction": 0.15},
    "evaluate": {
        "max_prompts": 60,
        "samples": 2,
        "judge_votes": 2,
        "meta_comparisons": 40,
        "head_to_head": {"sampling": {"max_tokens": 60}},
    },
}
RANKED = 500
"""So many of the demo's 1200 ranked prompts."""
NO_EFT = {"eft": {"enabled": False}, "evaluate": {"meta_comparisons": 0}}


def merge(base, overlay):
    merged = dict(base)
    for key, value in overlay.items():
        merged[key] = merge(base.get(key, {}), value) if isinstance(value, dict) else value
    return merged


class Run:
    """A workspace with its own configuration and results, on the repository's code."""

    def __init__(self, folder: Path, overlay: dict):
        self.folder = folder
        settings = yaml.safe_load((ROOT / "config/config.yaml").read_text())
        self.config = merge(merge(settings, QUICK), overlay)
        self.config["run"]["results"] = str(folder / "results")
        self.path = folder / "results" / self.config["run"]["name"]
        source, ranked = ROOT / self.config["eft"]["sources"][0], folder / "ranked.jsonl"
        lines = source.read_text(encoding="utf-8").splitlines(keepends=True)
        part = folder / f"ranked-{os.getpid()}.jsonl"  # another worker's jobs may be reading the file
        part.write_text("".join(lines[:RANKED]), encoding="utf-8")
        shutil.copystat(source, part)  # no newer than what other runs made of it
        part.replace(ranked)
        self.config["eft"]["sources"] = [str(ranked)]

    def command(self, *arguments: str, **overlay: dict) -> list[str]:
        file = self.folder / f"config-{os.getpid()}.yaml"
        file.write_text(yaml.safe_dump(merge(self.config, overlay)))
        return [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", str(file), *arguments]

    def snakemake(self, *arguments: str, **overlay: dict) -> str:
        done = subprocess.run(
            self.command(*arguments, **overlay),
            cwd=ROOT,
            env={**os.environ, **GUARD},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout + done.stderr

    def planned(self, **overlay: dict) -> dict[str, int]:
        """Snakemake's own job list for what would run now."""
        output = self.snakemake("--dry-run", "--quiet", "rules", **overlay)
        table = output.partition("Job stats:")[2].partition("Reasons:")[0]
        counts = dict(re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE))
        return {rule: int(count) for rule, count in counts.items() if rule not in ("job", "total", "all")}

    def table(self, pattern: str, table) -> pl.DataFrame:
        return read(sorted(self.path.glob(pattern)), table)
