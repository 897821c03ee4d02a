"""Are the answers still good ones? What a gain by checks must not be paid with, from a model's evaluation.

All of it is about sampled answers to held-out prompts, whose topics no training prompt has. Forms and repetition are
told as the training prompts' implicit checks tell them (`stages/algorithms/checks/implicit.py`): a model that learnt to
please those is not shown by them to be better, but one that cheats is shown.
"""

import numpy as np
import polars as pl

from examples.smollm2.instructions import FORMS
from examples.smollm2.prompts import subject
from examples.smollm2.topics import MEASURED, TASKS
from stages.algorithms.checks import follows
from stages.algorithms.statistics import LENGTH, SHARE, Bounds, ratio_estimate

BRIEF = {"length_constraints:number_words", "length_constraints:number_sentences"}
"""Kinds that ask for a short answer."""


def topic_of(prompt: str) -> str:
    """The topic of one of our held-out prompts. ValueError for any other prompt."""
    found = [topic for topic in MEASURED if any(prompt.startswith(task.format(topic)) for task in TASKS)]
    return max(found, key=len)


def faults(prompt: str, asked: set[str], answer: str) -> dict[str, bool]:
    """Which faults an answer has: `off_topic`, `unasked_form`, `repetition`."""
    allowed = sorted({form for kind in asked for form in FORMS.get(kind, [])})
    expected = {
        "off_topic": ("implicit:on_topic", {"words": subject(topic_of(prompt))}),
        "unasked_form": ("implicit:plain_form", {"allowed": allowed}),
        "repetition": ("implicit:no_repetition", {}),
    }
    return {fault: not follows(check, arguments, answer, prompt) for fault, (check, arguments) in expected.items()}


def guard(answers: pl.DataFrame, checked: pl.DataFrame) -> pl.DataFrame:
    """`metric`, `value`, `low`, `high`, `n` from rows of EVALUATIONS and CHECK_EVALUATIONS of one model.

    `off_topic`, `unasked_form`, `repetition`, `cut`: shares of sampled answers that mention nothing of the topic,
    have a form that nobody asked for, repeat themselves, were cut at the limit; `free_tokens`: mean length where
    nothing asks for brevity.
    """
    asked = dict(checked.group_by("prompt_id").agg("instruction").iter_rows())
    rows = []
    for answer in answers.filter(decoding="sample").iter_rows(named=True):
        kinds = set(asked[answer["prompt_id"]])
        found = faults(answer["messages"][-1]["content"], kinds, answer["text"])
        cut, free = answer["finish_reason"] == "length", not kinds & BRIEF
        rows.append({**found, "cut": cut, "free_tokens": answer["tokens"] if free else None})
    measured = pl.DataFrame(rows, infer_schema_length=None)
    return pl.DataFrame([_row(column, LENGTH if column.name == "free_tokens" else SHARE) for column in measured])


def _row(values: pl.Series, bounds: Bounds) -> dict[str, object]:
    known = values.drop_nulls().cast(pl.Float64).to_numpy()
    return {"metric": values.name, **ratio_estimate(known, np.ones(known.size), bounds)._asdict()}
