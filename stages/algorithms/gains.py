"""What each model gained over the one before it: paired, since both answer and judge the same with the same seeds."""

import math
from itertools import pairwise

import numpy as np
import polars as pl

from stages.algorithms.answer_metrics import answer_parts
from stages.algorithms.judge_metrics import accuracy_parts
from stages.algorithms.prompt_parts import Parts, Row
from stages.algorithms.statistics import gain_estimate
from stages.algorithms.verification import followed_parts

DECODINGS = ("sample", "greedy")
Values = dict[str, Parts]
"""What each prompt adds to the metrics, by prompt id."""


def gains(answers: pl.DataFrame, judged: pl.DataFrame, checked: pl.DataFrame) -> list[Row]:
    """Rows with `model`, `metric`, `value`, `low`, `high` and `n`: the metric of the model less that of the model
    before, over the `n` prompts that both have.

    `answers` are rows of table `evaluations`, `judged` of `judge_evaluations`, `checked` of `check_evaluations`, all
    with a column `model`; models follow each other by number. Metrics: as in table `summary`, those of answers and of
    checks, and `judge_accuracy`. Prompts are joined by their ids.
    """
    models = sorted({*answers["model"], *checked["model"], *judged["model"]})
    known = {
        model: [
            *(answer_parts(answers.filter(model=model), decoding) for decoding in DECODINGS),
            *(followed_parts(checked.filter(model=model), decoding) for decoding in DECODINGS),
            accuracy_parts(judged.filter(model=model)),
        ]
        for model in models
    }
    return [
        {"model": model, **row}
        for before, model in pairwise(models)
        for old, new in zip(known[before], known[model], strict=True)
        for row in _gained(old, new)
    ]


def verdict(row: Row) -> str:
    """What a gain (a row of `gains`) says, in words; where it says nothing, how many prompts might.

    An interval narrows with the square root of the number of prompts: to lie on one side of 0 around the same gain, it
    takes as many times more prompts as the square of its half by the gain.
    """
    value, low, high, count = row["value"], row["low"], row["high"], row["n"]
    if low is None or high is None:
        return "no spread was seen"
    if low > 0 or high < 0:
        return "better" if low > 0 else "worse"
    if not value:
        return f"cannot tell from {count} prompts"
    needed = math.ceil(count * ((high - low) / 2 / value) ** 2)
    return f"cannot tell from {count} prompts; if it is that much, about {max(needed, count + 1)} would"


def _gained(before: Values, after: Values) -> list[Row]:
    """The gain in each metric that these values have."""
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    bounds = {}
    for prompt_id in sorted(before.keys() & after.keys()):
        for metric, (total, weight, of_metric) in after[prompt_id].items():
            total_before, weight_before, _ = before[prompt_id][metric]
            if weight > 0 and weight_before > 0:
                bounds[metric] = of_metric
                found.setdefault(metric, []).append((total, weight, total_before, weight_before))
    gained = []
    for metric, rows in found.items():
        after_sums, after_weights, before_sums, before_weights = np.array(rows, dtype=float).T
        estimate = gain_estimate(after_sums, after_weights, before_sums, before_weights, bounds[metric])
        gained.append({"metric": metric, **estimate._asdict()})
    return gained
