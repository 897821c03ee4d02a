"""The evidence as a page: a table, a plot, and what they show and do not show."""

from pathlib import Path

import polars as pl

from stages.reporting.grids import with_interval

METRICS = {
    "quality": "true quality, T=1",
    "quality_greedy": "true quality, greedy",
    "judge_accuracy": "judge accuracy",
    "judge_spearman": "judge Spearman correlation",
    "judge_exact": "judge exact, one vote",
    "meta_accuracy": "meta-judge accuracy",
    "judge_score": "judge mean score",
    "tokens": "length (tokens)",
}
MODELS = range(-1, 4)
"""Base model (before EFT), then the loop's models."""
COLOURS = {"judged": "#2563eb", "meta": "#9333ea", "random": "#9ca3af", "oracle": "#16a34a"}
LABELS = {
    "judged": "own judge",
    "meta": "own judge + judge pairs (demo)",
    "random": "random scores",
    "oracle": "oracle scores",
}


def write_page(summaries: pl.DataFrame, folder: Path) -> None:
    """Write `tinyworld.md`, `tinyworld.svg` and `tinyworld.csv` from SUMMARY rows with columns `arm` and `seed`."""
    folder.mkdir(parents=True, exist_ok=True)
    summaries.sort("arm", "seed", "metric", "model").write_csv(folder / "tinyworld.csv", float_precision=4)
    draw(summaries, folder / "tinyworld.svg")
    text = (Path(__file__).parent / "evidence_text.md").read_text()
    text = text.replace("@gains@", gains(summaries)).replace("@table@", table(summaries))
    (folder / "tinyworld.md").write_text(text)


def gains(summaries: pl.DataFrame) -> str:
    """One line per arm: the gain from model 0 to 3 by seed, and its share of the oracle arm's."""
    lines = [
        "| arm | gain T=1 by seed | mean | share of oracle gain | gain greedy | judge accuracy base → 0 → 3 |",
        "|-|-|-|-|-|-|",
    ]
    oracle = _gain(summaries, "oracle", "quality")
    for arm in LABELS:
        gain, greedy = _gain(summaries, arm, "quality"), _gain(summaries, arm, "quality_greedy")
        if not gain:
            continue
        share = f"{_mean(gain) / _mean(oracle):.0%}" if oracle else ""
        judge = [_mean(_values(summaries, arm, "judge_accuracy", model)) for model in (-1, 0, 3)]
        lines.append(
            f"| {LABELS[arm]} | {', '.join(f'{g:+.2f}' for g in gain)} | {_mean(gain):+.2f} | {share} | "
            f"{', '.join(f'{g:+.2f}' for g in greedy)} | {judge[0]:.3f} → {judge[1]:.3f} → {judge[2]:.3f} |"
        )
    return "\n".join(lines)


def table(summaries: pl.DataFrame) -> str:
    """Every number with its 95 % interval."""
    lines = []
    for metric, label in METRICS.items():
        lines += [
            "",
            f"### {label.capitalize()}",
            "",
            "| arm | seed | base | model 0 | model 1 | model 2 | model 3 |",
            "|-|-|-|-|-|-|-|",
        ]
        rows = summaries.filter(pl.col("metric") == metric)
        for arm in LABELS:
            for seed in rows.filter(pl.col("arm") == arm)["seed"].unique().sort():
                cells = [_cell(rows, arm, seed, model) for model in MODELS]
                lines.append(f"| {LABELS[arm]} | {seed} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(summaries: pl.DataFrame, path: Path) -> None:
    """Quality at temperature 1, greedy quality and judge accuracy over the models; one line per run."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "evidence"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for axis, metric in zip(axes, ("quality", "quality_greedy", "judge_accuracy"), strict=True):
        for (arm, seed), run in (
            summaries.filter(pl.col("metric") == metric)
            .sort("arm", "seed", "model")
            .group_by("arm", "seed", maintain_order=True)
        ):
            offset = (int(seed) - 1) * 0.04
            errors = [run["value"] - run["low"], run["high"] - run["value"]]
            models = [model + offset for model in run["model"]]
            axis.errorbar(
                models,
                run["value"],
                yerr=errors,
                color=COLOURS[arm],
                marker="o",
                markersize=3,
                linewidth=1.1,
                capsize=2,
            )
        axis.set(title=METRICS[metric], xlabel="model", xticks=list(MODELS), xticklabels=["base", *MODELS[1:]])
        axis.grid(alpha=0.3)
    handles = [plt.Line2D([], [], color=COLOURS[arm], marker="o", label=LABELS[arm]) for arm in LABELS]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _cell(rows: pl.DataFrame, arm: str, seed: int, model: int) -> str:
    row = rows.filter(arm=arm, seed=seed, model=model).row(0, named=True)
    digits = 3 if str(row["metric"]).startswith(("judge", "meta")) else 2
    return with_interval(row, f"{{:.{digits}f}}")


def _values(summaries: pl.DataFrame, arm: str, metric: str, model: int) -> list[float]:
    return summaries.filter(arm=arm, metric=metric, model=model).sort("seed")["value"].to_list()


def _gain(summaries: pl.DataFrame, arm: str, metric: str) -> list[float]:
    first, last = (_values(summaries, arm, metric, model) for model in (0, 3))
    return [after - before for before, after in zip(first, last, strict=True)]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
