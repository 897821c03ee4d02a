"""The data stages at the size of one Meta-Rewarding iteration, as the commands that the workflow runs.

    .venv/bin/python -m benchmarks.data_stages              # score, rate and pairs; ratings against scikit-learn
    .venv/bin/python -m benchmarks.data_stages --scale 10   # score alone, on ten times the judgements

Made-up tables (`benchmarks/synthetic.py`) are written once and used again. Wall time is that of the whole command,
start-up included; memory is its peak resident set. The median of the rounds is printed, and written to
`benchmarks/results/data_stages.json` beside the results of other scales.

Ratings are compared with one scikit-learn logistic regression per prompt on the same battle matrix, the virtual ties of
the prior included, so that both have the same solution. The two alternate. Ours starts from the table of battles; of
scikit-learn both the fit alone and the fit with its design matrix are timed, from a battle matrix that it is given.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import warnings
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from benchmarks.synthetic import SHARDS, Files, make
from stages import tables
from stages.algorithms.ratings import MEAN, SCALE, battle_matrix, rate, tabulate
from stages.contracts.artifacts import read

RESULT = Path(__file__).parent / "results" / "data_stages.json"
PROMPTS, SEED, PRIOR = 5000, 7, 0.01
Result = dict[str, Any]


def main() -> None:
    """Make the tables, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=int, default=1, help="times 5,000 prompts; above 1 only `score` runs")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every command")
    parser.add_argument("--fits", type=int, default=100, help="prompts that scikit-learn rates in a round")
    parser.add_argument("--folder", type=Path, default=Path("results/benchmark"), help="where the tables go")
    options = parser.parse_args()
    files, out = tables_of(options.folder, options.scale), options.folder / f"out-{options.scale}"
    out.mkdir(parents=True, exist_ok=True)
    stages = {name: measure(command, options.rounds) for name, command in commands(files, out, options.scale).items()}
    result: Result = {"conditions": conditions(options.scale), "stages": stages}
    if options.scale == 1:
        result["ratings"] = against_sklearn(out / "battles.parquet", options.fits, options.rounds)
    show(result)
    RESULT.parent.mkdir(exist_ok=True)
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    RESULT.write_text(json.dumps(known | {f"scale {options.scale}": result}, indent=1, sort_keys=True) + "\n")


def tables_of(folder: Path, scale: int) -> Files:
    """The input tables of a scale, made unless a former run has finished them."""
    folder, done = folder / f"in-{scale}", folder / f"in-{scale}" / "done"
    if done.exists():
        return Files(folder)
    print(f"making {PROMPTS * scale} prompts and their tables ...", file=sys.stderr)
    files = make(folder, PROMPTS * scale, SEED, compared=scale == 1)
    done.touch()
    return files


def commands(files: Files, out: Path, scale: int) -> dict[str, list[str]]:
    """The command of each stage, in the order in which they run."""
    judgements, judge_prompts = files.of(tables.JUDGEMENTS), files.of(tables.JUDGE_PROMPTS)
    votes, scores, battles, ratings = (out / f"{name}.parquet" for name in ("votes", "scores", "battles", "ratings"))
    score = command(
        "score",
        judgements=judgements,
        judge_prompts=judge_prompts,
        exclude_shortened="true",
        votes=votes,
        scores=scores,
    )
    if scale > 1:
        return {"score": score}
    return {
        "score": score,
        "rate": command(
            "rate", verdicts=files.of(tables.VERDICTS), votes=votes, battles=battles, ratings=ratings, prior=PRIOR
        ),
        "pairs": command(
            "pairs",
            iteration=1,
            seed=SEED,
            judge_share=0.2,
            max_judge_class_share=0.4,
            prompts=files.prompts,
            candidates=files.of(tables.CANDIDATES),
            candidate_prompts=files.of(tables.CANDIDATE_PROMPTS),
            scores=scores,
            judgements=judgements,
            judge_prompts=judge_prompts,
            votes=votes,
            ratings=ratings,
            output=out / "pairs.parquet",
            ledger=out / "pair_ledger.parquet",
        ),
    }


def command(stage: str, **values: Any) -> list[str]:
    """`python -m stages.<stage>` with its flags."""
    words = [sys.executable, "-m", f"stages.{stage}"]
    for name, value in values.items():
        words += [f"--{name.replace('_', '-')}", *map(str, value if isinstance(value, list) else [value])]
    return words


def measure(words: list[str], rounds: int) -> Result:
    """Wall time (s), CPU time (s) and peak memory (MB) of a command: each round's, and their medians."""
    seen: list[tuple[float, float, float]] = []
    for _ in range(rounds):
        start = time.perf_counter()
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        said = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        seen.append((time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6))
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(said)
    print(said.strip(), file=sys.stderr)
    columns = {name: [round(run[index], 2) for run in seen] for index, name in enumerate(("wall", "cpu", "memory"))}
    return {name: {"median": statistics.median(values), "rounds": values} for name, values in columns.items()}


def against_sklearn(path: Path, fits: int, rounds: int) -> Result:
    """Seconds per prompt of `rate` over all prompts, and of one scikit-learn fit each for `fits` of them."""
    battles = read(path, tables.BATTLES)
    tournaments = tabulate(battles)
    won = battle_matrix(tournaments, "paper")
    assert tournaments.present.all(), "the made-up judgements all meet each other"
    sample = np.random.default_rng(SEED).choice(len(won), fits, replace=False)
    ours, fits_alone, with_designs, differences = [], [], [], []
    for _ in range(rounds):
        start = time.perf_counter()
        ratings = rate(battles, "paper", PRIOR)
        ours.append((time.perf_counter() - start) / len(won))
        start = time.perf_counter()
        problems = [design(won[row]) for row in sample]
        middle = time.perf_counter()
        strengths = np.array([fit(*problem) for problem in problems])
        end = time.perf_counter()
        fits_alone.append((end - middle) / fits)
        with_designs.append((end - start) / fits)
        rated = (ratings["rating"].to_numpy().reshape(won.shape[:2])[sample] - MEAN) / SCALE
        differences.append(float(np.abs(rated - strengths).max()))
    seconds = {"ours": ours, "fit alone": fits_alone, "fit and design": with_designs}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "prompts": len(won),
        "fits": fits,
        "total_seconds": medians["ours"] * len(won),
        "milliseconds_per_prompt": {name: [round(1e3 * value, 4) for value in seconds[name]] for name in seconds},
        "times_as_fast": {name: medians[name] / medians["ours"] for name in ("fit alone", "fit and design")},
        "largest_difference_log_odds": max(differences),
    }


def design(won: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Rows, labels and weights of a prompt's regression: each ordered pair of judgements as a win and as a loss."""
    pairs = list(permutations(range(len(won)), 2))
    rows = np.array([np.eye(len(won))[m] - np.eye(len(won))[n] for m, n in pairs])
    weight = np.array([won[m, n] + PRIOR / 2 for m, n in pairs])
    labels = np.r_[np.ones(len(pairs)), np.zeros(len(pairs))]
    return np.r_[rows, -rows], labels, np.r_[weight, weight]


def fit(rows: NDArray[np.float64], labels: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Strengths in log-odds, mean 0, by unpenalised logistic regression; as exact as 1e-4 asks for."""
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-8, max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(rows, labels, sample_weight=weight)
    return model.coef_[0] - model.coef_[0].mean()


def conditions(scale: int) -> Result:
    """When, where and with what."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "rows": {"prompts": PROMPTS * scale, "candidates": 35_000 * scale, "judgements": 385_000 * scale}
        | ({"verdicts": 550_000} if scale == 1 else {}),
        "files": SHARDS,
        "processor": names[0].partition(": ")[2] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("polars", "pyarrow", "numpy", "scikit-learn")},
    }


def show(result: Result) -> None:
    """A table on standard output."""
    print(json.dumps(result["conditions"]))
    print(f"{'stage':8} {'wall s':>8} {'cpu s':>8} {'peak MB':>8}")
    for name, seen in result["stages"].items():
        print(f"{name:8} " + " ".join(f"{seen[column]['median']:8.2f}" for column in ("wall", "cpu", "memory")))
    if "ratings" in result:
        ratings = result["ratings"]
        times = ", ".join(f"{ratio:.0f} ({name})" for name, ratio in ratings["times_as_fast"].items())
        print(
            f"battles and ratings of {ratings['prompts']} prompts: {ratings['total_seconds']:.3f} s; times as fast per "
            f"prompt as scikit-learn: {times}; largest difference {ratings['largest_difference_log_odds']:.1e} log-odds"
        )


if __name__ == "__main__":
    main()
