"""The report's tables of numbers by model, as text cells."""

from typing import Any, NamedTuple

import polars as pl

from stages.algorithms.gains import verdict
from stages.reporting.figures import model_name

HEADLINE = {
    "quality": ("True quality", "{:.2f}"),
    "quality_greedy": ("Greedy quality", "{:.2f}"),
    "prompt_strict": ("Instructions followed", "{:.1%}"),
    "judge_accuracy": ("Judge accuracy", "{:.1%}"),
    "judge_spearman": ("Spearman", "{:.3f}"),
    "meta_accuracy": ("Meta-judge accuracy", "{:.1%}"),
    "tokens": ("Mean length", "{:.1f}"),
}
JUDGE = {
    "judge_accuracy": ("Pairwise accuracy", "{:.1%}"),
    "judge_five_best": ("5-best", "{:.1%}"),
    "judge_exact_order": ("Exact match", "{:.1%}"),
    "judge_spearman": ("Spearman", "{:.3f}"),
    "judge_kendall": ("Kendall τ-b", "{:.3f}"),
    "judge_calibration": ("Calibration error", "{:.3f}"),
    "judge_parse_rate": ("Parsed", "{:.1%}"),
    "judge_exact": ("First vote exact", "{:.1%}"),
    "judge_score": ("Mean score", "{:.2f}"),
}
FOLLOWED = {
    "prompt_strict": ("Prompts, strict", "{:.1%}"),
    "instruction_strict": ("Instructions, strict", "{:.1%}"),
    "prompt_loose": ("Prompts, loose", "{:.1%}"),
    "instruction_loose": ("Instructions, loose", "{:.1%}"),
}
GAINS = ("quality", "quality_greedy", "prompt_strict", "judge_accuracy", "tokens")
"""Those of the headline that are compared with the model before, prompt by prompt."""
META_JUDGE = {
    "meta_accuracy": ("Accuracy", "{:.1%}"),
    "meta_first_slot": ("First slot wins", "{:.1%}"),
    "meta_flip": ("Order flips", "{:.1%}"),
    "meta_calibration": ("Calibration error", "{:.3f}"),
}

TRENDS = {
    "score_against_length": ("Score against length", "{:+.2f}"),
    "length_gap": ("Chosen longer by", "{:+.1f}"),
    "score_gap": ("Score gap", "{:.2f}"),
    "distinct_share": ("Distinct candidates", "{:.1%}"),
    "longer_wins": ("Longer judgement wins", "{:.1%}"),
    "implicit_agreement": ("Implicit reward agrees", "{:.1%}"),
    "held_out_agreement": ("On held-out pairs", "{:.1%}"),
}

_EVEN = 0.1
"""Part of an interval's width by which its two sides may differ and still be given as one."""


class Grid(NamedTuple):
    """A table of text cells, with the section it belongs to, its title and a sentence on how to read it."""

    section: str
    title: str
    note: str
    head: list[str]
    rows: list[list[str]]


def by_model(summary: pl.DataFrame, metrics: dict[str, tuple[str, str]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table from rows of table `summary`; metrics that were not measured have no column.

    `metrics` gives the name and the format of each. The first column is the model; a cell is a value, with
    how far its 95 % interval reaches where it has one.
    """
    measured = [metric for metric in metrics if metric in summary["metric"]]
    values = {(row["model"], row["metric"]): row for row in summary.iter_rows(named=True)}
    models = sorted({model for model, _ in values})
    rows = [
        [model_name(model), *(_cell(values.get((model, metric)), metrics[metric][1]) for metric in measured)]
        for model in models
    ]
    return ["Model", *(metrics[metric][0] for metric in measured)], rows


def check_grids(summary: pl.DataFrame) -> list[Grid]:
    """How well each model follows instructions that can be checked: IFEval's four numbers of each decoding, and each
    kind of instruction by itself; nothing where no held-out prompt carries checks."""
    kinds = sorted(name for name in summary["metric"].unique() if name.startswith("follows:"))
    if not kinds:
        return []
    section = "Does it get better?"
    note = (
        "Prompts: share of the {} that follow all their instructions; instructions: share of these. Loose: also "
        "without the first or last line or the asterisks, as IFEval has it."
    )
    greedy = {f"{name}_greedy": form for name, form in FOLLOWED.items()}
    head, rows = by_model(summary, {name: (name.removeprefix("follows:"), "{:.0%}") for name in kinds})
    models, *columns = (list(column) for column in zip(head, *rows, strict=True))
    return [
        Grid(section, "Instructions followed, sampled", note.format("samples"), *by_model(summary, FOLLOWED)),
        Grid(section, "Instructions followed, greedy", note.format("greedy responses"), *by_model(summary, greedy)),
        Grid(section, "By kind of instruction", "Sampled, strict.", ["Instruction", *models[1:]], columns),
    ]


def judge_grids(summary: pl.DataFrame) -> list[Grid]:
    """How well each model judges, and judges judgements; none of what was not measured."""
    judge = (
        "Against the ranks of the test responses. 5-best: how often a response with the highest score is ranked first. "
        "Exact match: prompts whose whole order is right. Calibration error: of the order's probability by the votes. "
        "Parsed: votes from which a score could be read."
    )
    meta = (
        "Pairs of judgements of which one is known to be better, in both orders. First slot wins: 50 % is unbiased. "
        "Order flips: pairs whose winner changes with the order."
    )
    grids = [
        Grid("Judge", "The model as judge", judge, *by_model(summary, JUDGE)),
        Grid("Judge", "The model as meta-judge", meta, *by_model(summary, META_JUDGE)),
    ]
    return [grid for grid in grids if len(grid.head) > 1]


def gain_grids(gains: list[dict[str, Any]]) -> list[Grid]:
    """What each model gained over the model before, from rows of `stages.algorithms.gains`; none for a single model."""
    note = (
        "Each model less the model before, on the same prompts with the same seeds. What makes a prompt hard for both "
        "cancels, so that the interval tells more than those of the two models. Accuracy in percentage points. In "
        "words: the first number."
    )
    values = {(row["model"], row["metric"]): row for row in gains}
    measured = [metric for metric in GAINS if any(metric == name for _, name in values)]
    judged = [metric for metric in measured if metric != "tokens"][:1]  # longer is neither better nor worse
    words = {model: verdict(row) for (model, metric), row in values.items() if metric in judged}
    rows = [
        [
            model_name(model),
            *(_gain(values.get((model, metric)), HEADLINE[metric][1]) for metric in measured),
            words.get(model, ""),
        ]
        for model in sorted({model for model, _ in values})
    ]
    head = ["Model", *(HEADLINE[metric][0] for metric in measured), "In words"]
    return [Grid("Does it get better?", "Gain over the model before", note, head, rows)] if rows else []


def trend_grids(trends: pl.DataFrame) -> list[Grid]:
    """What changes from iteration to iteration, from `stages.algorithms.run_trends`; trends without any value have no
    column."""
    note = (
        "Score against length: Spearman within a prompt's candidates. Chosen longer by (tokens), score gap: means over "
        "the actor pairs. Distinct candidates: share within a prompt. Longer judgement wins: verdicts on "
        "judgements of unequal length, 50 % is no preference. Implicit reward agrees: pairs of the last pass over the "
        "training data, judge pairs included, in whose order the model's own reward, beta log(policy / reference), "
        "agrees with the choice."
    )
    measured = [trend for trend in TRENDS if trend in trends["trend"]]
    values = {(row["iteration"], row["trend"]): row["value"] for row in trends.iter_rows(named=True)}
    rows = [
        [str(iteration), *(_number(values.get((iteration, trend)), TRENDS[trend][1]) for trend in measured)]
        for iteration in sorted({iteration for iteration, _ in values})
    ]
    head = ["Iteration", *(TRENDS[trend][0] for trend in measured)]
    return [Grid("Trends", "By iteration", note, head, rows)] if rows else []


def panel_grids(panel: pl.DataFrame) -> list[Grid]:
    """The judges of a panel, from `stages.algorithms.panel`; nothing where one judges alone."""
    note = (
        "Spread: standard deviation of a judge's votes on one candidate. Agrees: of the pairs of a prompt's candidates "
        "that this judge and the mean of the others both tell apart, how often they prefer the same one."
    )
    head = ["Iteration", "Judge", "Votes", "Parsed", "Mean score", "Spread", "Agrees", "Pairs"]
    forms = {"votes": "{}", "parsed": "{:.1%}", "score": "{:.2f}", "spread": "{:.2f}", "agreement": "{:.1%}"}
    rows = [
        [str(row["iteration"]), row["judge"], *(_number(row[name], form) for name, form in forms.items()),
         str(row["compared"])]
        for row in panel.iter_rows(named=True)
    ]  # fmt: skip
    return [Grid("What the judge says", "Judges of the panel", note, head, rows)] if rows else []


def as_text(head: list[str], rows: list[list[str]]) -> str:
    """A table with aligned columns, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join(lines)


def counts(rows: pl.DataFrame, column: str) -> str:
    """`3 duplicate, 1 tie`: how often each value of a column occurs, most frequent first."""
    sizes = rows.group_by(column).len().sort("len", column, descending=[True, False])
    return ", ".join(f"{count} {name}" for name, count in sizes.iter_rows())


def with_interval(row: dict[str, Any], form: str) -> str:
    """`2.97 ± 0.06`, or `95.7% -1.0% +0.8%` where the interval reaches clearly farther to one side, as near a
    bound.

    `row` has `value` and, where it has an interval, its ends `low` and `high`; `form` is a format of a number.
    """
    return form.format(row["value"]) + _reach(row, form)


def _cell(row: dict[str, Any] | None, form: str) -> str:
    return with_interval(row, form) if row else ""


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _gain(row: dict[str, Any] | None, form: str) -> str:
    """A cell whose value has its sign."""
    return form.replace("{:", "{:+").format(row["value"]) + _reach(row, form) if row else ""


def _reach(row: dict[str, Any], form: str) -> str:
    """How far the interval reaches, if there is one."""
    if row["low"] is None or row["high"] is None:
        return ""
    below, above = row["value"] - row["low"], row["high"] - row["value"]
    if abs(above - below) < _EVEN * (above + below):
        return f" ± {form.format((above + below) / 2)}"
    return f" -{form.format(below)} +{form.format(above)}"
