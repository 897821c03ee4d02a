"""Does the loop work, and because of the judge? Reruns the demo with several seeds and arms.

    make evidence          (or: .venv/bin/python examples/tinyworld/evidence.py --cores 2)

Arms: `judged` (the own judge, actor pairs only), `meta` (judge pairs too: the demo), `random` and `oracle` (scores from
chance, from the truth). Runs are independent, so each gets one core, and as many run at a time as there are cores;
what is finished is not computed again. Writes `docs/evidence/tinyworld.md`, `.csv` and `.svg`.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import polars as pl
import yaml
from evidence_page import write_page

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "evidence"
ARMS = {
    "judged": {"meta_judge": {"enabled": False}, "pairs": {"judge_share": 0.0}},
    "meta": {"meta_judge": {"enabled": [True, True, False]}, "pairs": {"judge_share": [0.25, 0.25, 0.0]}},
    "random": {"meta_judge": {"enabled": False}, "pairs": {"judge_share": 0.0}},
    "oracle": {"meta_judge": {"enabled": False}, "pairs": {"judge_share": 0.0}},
}
MODELS = ["base", 0, 1, 2, 3]


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", default="all", help="runs at a time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--page-only", action="store_true", help="run nothing; write the page from finished runs")
    options = parser.parse_args()
    workers = os.cpu_count() if options.cores == "all" else int(options.cores)
    runs = [(arm, seed) for seed in options.seeds for arm in options.arms]
    with ThreadPoolExecutor(workers) as pool:
        started = [] if options.page_only else runs
        failed = [run for run, code in zip(started, pool.map(lambda run: start(*run), started), strict=True) if code]
    if failed:
        sys.exit(f"these runs failed, see results/evidence/<arm>-s<seed>.log: {failed}")
    write_page(pl.concat([summary(arm, seed) for arm, seed in runs]), ROOT / "docs/evidence")


def start(arm: str, seed: int) -> int:
    """One run of the workflow on one core; returns its exit code."""
    name = f"{arm}-s{seed}"
    RESULTS.mkdir(parents=True, exist_ok=True)
    overlay = RESULTS / f"{name}.yaml"
    run = {"name": name, "results": str(RESULTS.relative_to(ROOT)), "seed": seed, "shards": 1}
    overlay.write_text(yaml.safe_dump({"run": run, "megatron": {"processes": 1}, **ARMS[arm]}))
    control = arm in ("random", "oracle")
    command = [
        *(sys.executable, "-m", "snakemake", "--cores", "1", "--nolock", "--rerun-incomplete"),
        *("--snakefile", "examples/controls.smk" if control else "workflow/Snakefile"),
        *("--workflow-profile", "none"),
        *("--configfile", "config/config.yaml", str(overlay)),
        *(["--config", f"arm={arm}"] if control else []),
        "--",
        *(str((RESULTS / name / f"evaluation/{model}/summary.parquet").relative_to(ROOT)) for model in MODELS),
    ]
    with open(RESULTS / f"{name}.log", "w") as log:
        code = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False).returncode
    print(f"{name}: {'failed' if code else 'done'}", flush=True)
    return code


def summary(arm: str, seed: int) -> pl.DataFrame:
    """Headline numbers of a run's models."""
    files = [RESULTS / f"{arm}-s{seed}" / f"evaluation/{model}/summary.parquet" for model in MODELS]
    return pl.concat([pl.read_parquet(file) for file in files]).with_columns(arm=pl.lit(arm), seed=pl.lit(seed))


if __name__ == "__main__":
    main()
