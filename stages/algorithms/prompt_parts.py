"""What prompts add to the numbers of an evaluation, and the numbers that come of it."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from stages.algorithms.statistics import Bounds, ratio_estimate

Row = dict[str, Any]
Parts = dict[str, tuple[float, float, Bounds]]
"""What one prompt adds to each metric: a sum and its weight, of which 0 means nothing; and the metric's bounds."""


def estimates(prompts: Iterable[Parts]) -> list[Row]:
    """SUMMARY rows without the model's number; metrics that no prompt adds to have none."""
    values: dict[tuple[str, Bounds], list[tuple[float, float]]] = {}
    for parts in prompts:
        for metric, (total, weight, bounds) in parts.items():
            if weight > 0:
                values.setdefault((metric, bounds), []).append((total, weight))
    rows = []
    for (metric, bounds), pairs in values.items():
        sums, weights = np.array(pairs, dtype=float).T
        rows.append({"metric": metric, **ratio_estimate(sums, weights, bounds)._asdict()})
    return rows
