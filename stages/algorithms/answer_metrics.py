"""How good and how long a model's answers to held-out prompts are, prompt by prompt."""

import polars as pl

from stages.algorithms.prompt_parts import Parts
from stages.algorithms.statistics import LENGTH, UNBOUNDED, Bounds

_COLUMNS = {"sample": {"tokens": "tokens", "quality": "quality"}, "greedy": {"quality_greedy": "quality"}}
"""Of each decoding, the metrics with their column."""


def answer_parts(answers: pl.DataFrame, decoding: str, scale: Bounds = UNBOUNDED) -> dict[str, Parts]:
    """What each prompt adds to the metrics of a `decoding` (`sample` or `greedy`), by prompt id, from rows of table
    `evaluations`: the sum over its answers, and their number. `scale` is that of quality, where the oracle has one."""
    rows = answers.filter(pl.col("decoding") == decoding).sort("prompt_id", "sample")
    bounds = {"tokens": LENGTH, "quality": scale}
    return {
        str(prompt_id): {
            metric: (float(prompt[column].sum()), prompt[column].count(), bounds[column])
            for metric, column in _COLUMNS[decoding].items()
        }
        for (prompt_id,), prompt in rows.group_by("prompt_id", maintain_order=True)
    }
