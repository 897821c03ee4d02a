"""The evidence as a page: tables of what the runs found, between the words of `evidence_text.md`."""

import math
from collections.abc import Callable
from pathlib import Path

import polars as pl

from examples.smollm2.prompts import TRANSFER

LABELS = {
    "verify": "checks (the example)",
    "best_of_n": "best of n, SFT",
    "random": "shuffled scores",
}
HEADLINES = {
    "prompt_strict": "prompts wholly followed, T=0.7",
    "prompt_strict_greedy": "prompts wholly followed, greedy",
    "instruction_strict": "instructions followed, T=0.7",
    "instruction_strict_greedy": "instructions followed, greedy",
}
GUARD = {
    "free_tokens": "tokens where nothing asks for brevity",
    "off_topic": "nothing of the topic",
    "unasked_form": "a form that nobody asked for",
    "repetition": "repeats itself",
    "cut": "cut at the limit",
}
IFEVAL = {
    "ifeval:prompt_strict_greedy": "prompt, strict",
    "ifeval:instruction_strict_greedy": "instruction, strict",
    "ifeval:prompt_loose_greedy": "prompt, loose",
    "ifeval:instruction_loose_greedy": "instruction, loose",
}
Cell = Callable[[dict[str, float]], str]


def write_page(rows: pl.DataFrame, folder: Path) -> None:
    """Write `smollm2.md` into the folder from the rows of `smollm2.csv`."""
    text = (Path(__file__).parent / "evidence_text.md").read_text()
    kinds = sorted(name for name in rows["metric"].unique() if name.startswith("follows:"))
    costs = {
        f"{what}:{name}": f"{name}, {unit}"
        for what, unit in (("cpu_seconds", "CPU-seconds"), ("peak_mb", "peak MB"))
        for name in ("candidates", "reference_logprobs", "train", "evaluate")
    }
    parts = {
        "runs": run_list(rows),
        "headlines": table(rows, HEADLINES, share),
        "guard": table(rows, GUARD, lambda row: number(row) if row["metric"] == "free_tokens" else share(row)),
        "perplexity": table(rows, {"answer_loss": "perplexity of real answers"}, perplexity),
        "kinds": by_kind(rows, kinds),
        "ifeval": table(rows, IFEVAL, share),
        "pairs": table(rows, pair_counts(rows), number),
        "costs": table(rows, costs, number),
    }
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    (folder / "smollm2.md").write_text(text)


def run_list(rows: pl.DataFrame) -> str:
    """Which runs there are, and how many iterations each has."""
    last = rows.group_by("arm", "seed").agg(pl.col("model").max()).sort("seed")
    arms = {label: last.filter(arm=arm).select("seed", "model").rows() for arm, label in LABELS.items()}
    return "; ".join(
        f"{label}, {' and '.join(f'seed {seed} with {model} iteration' + 's' * (model > 1) for seed, model in runs)}"
        for label, runs in arms.items()
        if runs
    )


def pair_counts(rows: pl.DataFrame) -> dict[str, str]:
    """The metrics that count pairs, and those that are none, by reason."""
    reasons = sorted(name for name in rows["metric"].unique() if name.startswith("no_pair:"))
    return {"pairs": "pairs", **{name: f"no pair: {name.removeprefix('no_pair:')}" for name in reasons}}


def table(rows: pl.DataFrame, metrics: dict[str, str], cell: Cell) -> str:
    """One line per metric and run, one column per model; nothing where nothing was measured."""
    found = rows.filter(pl.col("metric").is_in(list(metrics)))
    if not found.height:
        return "Not measured yet."
    models = sorted(found["model"].unique())
    heads = ["", "arm", "seed", *("base" if model == 0 else f"model {model}" for model in models)]
    lines = ["| " + " | ".join(heads) + " |", "|" + "-|" * len(heads)]
    for metric, label in metrics.items():
        for arm in LABELS:
            for seed in sorted(found.filter(metric=metric, arm=arm)["seed"].unique()):
                run = {
                    row["model"]: row for row in found.filter(metric=metric, arm=arm, seed=seed).iter_rows(named=True)
                }
                cells = [cell(run[model]) if model in run else "" for model in models]
                lines.append("| " + " | ".join([label, LABELS[arm], str(seed), *cells]) + " |")
    return "\n".join(lines)


def by_kind(rows: pl.DataFrame, kinds: list[str]) -> str:
    """Each kind of instruction, base and each arm's last model: the mean share of the seeds, in percent."""
    found = rows.filter(pl.col("metric").is_in(kinds))
    if not found.height:
        return "Not measured yet."
    arms = [arm for arm in LABELS if found.filter(arm=arm).height]
    last = {arm: found.filter(arm=arm)["model"].max() for arm in arms}
    lines = ["| kind | base | " + " | ".join(LABELS[arm] for arm in arms) + " |", "|-|-|" + "-|" * len(arms)]
    for kind in kinds:
        means = [found.filter(metric=kind, arm=arm, model=last[arm])["value"].mean() for arm in arms]
        base = found.filter(metric=kind, model=0)["value"].mean()
        name = kind.removeprefix("follows:")
        shown = " | ".join("" if mean is None else f"{mean:.0%}" for mean in [base, *means])
        lines.append(f"| {name}{' (never trained)' if name in TRANSFER else ''} | {shown} |")
    return "\n".join(lines)


def share(row: dict[str, float]) -> str:
    """A share in percent, with its interval where there is one."""
    interval = "" if row["low"] is None else f" ({row['low'] * 100:.1f}–{row['high'] * 100:.1f})"
    return f"{row['value'] * 100:.1f} %{interval}"


def number(row: dict[str, float]) -> str:
    """A whole number."""
    return f"{row['value']:,.0f}"


def perplexity(row: dict[str, float]) -> str:
    """The perplexity that a loss per token stands for."""
    return f"{math.exp(row['value']):.2f}"
