"""How good and how long a model's answers to held-out prompts are, prompt by prompt."""

import polars as pl

from stages.algorithms.prompt_parts import Parts
from stages.algorithms.statistics import LENGTH, UNBOUNDED, Bounds

_METRICS: dict[str, dict[str, tuple[str, Bounds]]] = {
    "sample": {"tokens": ("tokens", LENGTH), "quality": ("quality", UNBOUNDED)},
    "greedy": {"quality_greedy": ("quality", UNBOUNDED)},
}
"""Of each decoding, the metrics with their column and bounds. The scale of quality is the oracle's own affair."""


def answer_parts(answers: pl.DataFrame, decoding: str) -> dict[str, Parts]:
    """What each prompt adds to the metrics of a `decoding` (`sample` or `greedy`), by prompt id, from rows of table
    `evaluations`: the sum over its answers, and their number."""
    rows = answers.filter(pl.col("decoding") == decoding).sort("prompt_id", "sample")
    return {
        str(prompt_id): {
            metric: (float(prompt[column].sum()), prompt[column].count(), bounds)
            for metric, (column, bounds) in _METRICS[decoding].items()
        }
        for (prompt_id,), prompt in rows.group_by("prompt_id", maintain_order=True)
    }
