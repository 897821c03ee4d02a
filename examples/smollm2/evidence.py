"""Does a real model get better by the loop, and by what? Runs the example with several seeds and arms.

    make evidence-smollm2     (or: .venv/bin/python -m examples.smollm2.evidence --arms verify random --seeds 0 1 2)

Each run takes two cores; as many run at a time as there are cores for. What a run found goes into
`docs/evidence/smollm2.csv`, and a run that is there already is not repeated (`--again` repeats it). Then the page
`docs/evidence/smollm2.md` is written from the table.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from examples.smollm2.evidence_page import write_page
from examples.smollm2.guard import guard
from stages.contracts.artifacts import read
from stages.tables import CHECK_EVALUATIONS, EVALUATIONS, PAIR_LEDGER, PAIRS, SUMMARY, TRAIN_METRICS

ROOT = Path(__file__).parents[2]
RESULTS = Path("results/evidence-smollm2")
TABLE = ROOT / "docs/evidence/smollm2.csv"
IFEVAL_TOKENS = 400
CORES = 2
"""Of a run: as many as `config.yaml` has shards, on which its samples in bfloat16 depend."""
ARMS: dict[str, dict[str, Any]] = {
    "verify": {},
    "random": {},
    "best_of_n": {"train": {"preference_weight": 0.0, "sft_weight": 1.0}},
}
"""What differs from `config.yaml`; in the arm `random` chance deals the checks' scores out anew among a
prompt's responses (`examples/controls.smk`)."""
SCHEMA = {"arm": pl.String, "seed": pl.Int64, "model": pl.Int64, "metric": pl.String, "value": pl.Float64,
          "low": pl.Float64, "high": pl.Float64, "n": pl.Int64}  # fmt: skip
Row = dict[str, Any]


def main() -> None:
    """Run what is missing, then write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="two for each run at a time")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--iterations", type=int, default=3, help="iterations of each run")
    parser.add_argument("--answers", type=Path, help="chat data on whose answers perplexity is measured")
    parser.add_argument(
        "--ifeval", type=Path, help="IFEval's prompts, for model 0 and the last one (half an hour each)"
    )
    parser.add_argument("--again", action="store_true", help="repeat runs whose numbers are there already")
    options = parser.parse_args()
    known = pl.read_csv(TABLE, schema=SCHEMA) if TABLE.exists() else pl.DataFrame(schema=SCHEMA)
    done = set() if options.again else set(known.select("arm", "seed").iter_rows())
    runs = [(arm, seed) for seed in options.seeds for arm in options.arms if (arm, seed) not in done]
    subprocess.run([sys.executable, "-m", "examples.smollm2.prepare"], cwd=ROOT, check=True)
    with ThreadPoolExecutor(max(1, options.cores // CORES)) as pool:
        codes = list(pool.map(lambda one: start(*one, options), runs))
    found = [measured(*one, options.iterations) for one, code in zip(runs, codes, strict=True) if not code]
    fresh = pl.concat([pl.DataFrame(schema=SCHEMA), *found])
    kept = known.join(fresh.select("arm", "seed").unique(), on=["arm", "seed"], how="anti")
    rows = pl.concat([kept, fresh]).sort("arm", "seed", "metric", "model")
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    rows.write_csv(TABLE, float_precision=4)
    write_page(rows, TABLE.parent)
    if any(codes):
        sys.exit(f"runs failed, see {RESULTS}/<arm>-s<seed>.log")


def start(arm: str, seed: int, options: argparse.Namespace) -> int:
    """One run of the loop, and IFEval's prompts for its first and last model; returns the exit code."""
    name = f"{arm}-s{seed}"
    settings = {section: dict(values) for section, values in ARMS[arm].items()}
    last = options.iterations
    if options.answers:
        settings.setdefault("train", {})["validation"] = {"answers": [str(options.answers)], "every_steps": 1000}
    settings["run"] = {"seed": seed, "iterations": last}
    code = snakemake(name, settings, range(last + 1), ["arm=shuffled"] if arm == "random" else [])
    for model in (0, last) if options.ifeval and not code else ():
        folder = RESULTS / name / f"models/{model}"
        asked = {"prompts": str(options.ifeval), "sampling": {"max_tokens": IFEVAL_TOKENS}}
        settings = {"run": {"seed": seed, "model": str(folder)}, "evaluate": asked}
        code = code or snakemake(f"{name}-ifeval-{model}", settings, [0])
    print(f"{name}: {'failed' if code else 'done'}", flush=True)
    return code


def snakemake(name: str, settings: dict[str, Any], models: Iterable[int], control: Sequence[str] = ()) -> int:
    """Evaluate models of a run, with all that they need; returns the exit code."""
    (ROOT / RESULTS).mkdir(parents=True, exist_ok=True)
    overlay = ROOT / RESULTS / f"{name}.yaml"
    settings["run"] |= {"name": name, "results": str(RESULTS)}
    overlay.write_text(yaml.safe_dump(settings))
    command = [
        *(sys.executable, "-m", "snakemake", "--cores", str(CORES), "--rerun-incomplete"),
        *("--workflow-profile", "none", "--nolock"),
        *("--snakefile", "examples/controls.smk" if control else "workflow/Snakefile"),
        *("--configfile", "examples/smollm2/config.yaml", str(overlay)),
        *(["--config", *control] if control else []),
        "--",
        *(f"{RESULTS}/{name}/evaluation/{model}/summary.parquet" for model in models),
    ]
    with open(ROOT / RESULTS / f"{name}.log", "w") as log:
        return subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False).returncode


def measured(arm: str, seed: int, iterations: int) -> pl.DataFrame:
    """All numbers of a finished run, as rows of the table."""
    run = ROOT / RESULTS / f"{arm}-s{seed}"
    parts = [pl.from_dicts(costs(run))]
    for model in range(iterations + 1):
        folder = run / f"evaluation/{model}"
        tables = ((folder / f"{table.name}.parquet", table) for table in (EVALUATIONS, CHECK_EVALUATIONS))
        numbers = [read(folder / "summary.parquet", SUMMARY), guard(*(read(*one) for one in tables))]
        parts += [one.with_columns(model=pl.lit(model, pl.Int64)) for one in numbers]
    for model in (0, iterations):
        outside = run.with_name(f"{run.name}-ifeval-{model}") / "evaluation/0/summary.parquet"
        if outside.exists():
            named = pl.concat_str(pl.lit("ifeval:"), "metric").alias("metric")
            parts.append(read(outside, SUMMARY).with_columns(named, model=pl.lit(model, pl.Int64)))
    parts += [pl.from_dicts(trained(run, iteration)) for iteration in range(1, iterations + 1)]
    whole = pl.concat(parts, how="diagonal_relaxed").with_columns(arm=pl.lit(arm), seed=pl.lit(seed))
    return whole.select(pl.col(name).cast(kind) for name, kind in SCHEMA.items())


def trained(run: Path, iteration: int) -> list[Row]:
    """What an iteration trained on and what became of it: numbers of pairs and of prompts without one, by reason, and
    the loss of real answers before and after."""
    folder = run / f"iter-{iteration}"
    numbers = {"pairs": read(folder / "pairs.parquet", PAIRS, ["prompt_id"]).height}
    for reason, count in read(folder / "pair_ledger.parquet", PAIR_LEDGER, ["reason"])["reason"].value_counts().rows():
        numbers[f"no_pair:{reason}"] = count
    rows = [{"model": iteration, "metric": metric, "value": float(value)} for metric, value in numbers.items()]
    losses = read(folder / "train/metrics.parquet", TRAIN_METRICS).filter(metric="validation/answer_loss").sort("step")
    ends = [(iteration - 1, losses.head(1)), (iteration, losses.tail(1))]
    for model, loss in ends[0 if iteration == 1 else 1 :]:
        rows += [{"model": model, "metric": "answer_loss", "value": value} for value in loss["value"]]
    return rows


def costs(run: Path) -> list[Row]:
    """CPU-seconds and peak memory of each rule, over all its jobs of the run."""
    jobs = [
        pl.read_csv(file, separator="\t").select(
            pl.lit(file.relative_to(run / "benchmarks").parts[0].removesuffix(".tsv")).alias("rule"),
            pl.col("cpu_time", "max_rss").cast(pl.Float64, strict=False),
        )
        for file in sorted((run / "benchmarks").rglob("*.tsv"))
    ]
    by_rule = pl.concat(jobs).group_by("rule").agg(pl.col("cpu_time").sum(), pl.col("max_rss").max()).sort("rule")
    rows: list[Row] = []
    for rule, seconds, megabytes in by_rule.iter_rows():
        rows.append({"model": 0, "metric": f"cpu_seconds:{rule}", "value": seconds})
        rows.append({"model": 0, "metric": f"peak_mb:{rule}", "value": megabytes})
    return rows


if __name__ == "__main__":
    main()
