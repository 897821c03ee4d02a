"""Means with confidence intervals, and how well a judge orders answers."""

import math

import numpy as np

Z95 = 1.959963984540054


def mean_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of independent values [n] with its normal 95 % interval: (mean, low, high)."""
    mean = float(values.mean())
    half = Z95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return mean, mean - half, mean + half


def pairwise_accuracy(scores: np.ndarray, quality: np.ndarray) -> tuple[float, float, float]:
    """Share of pairs of unequal quality that the scores order rightly; a tie of scores counts one half.

    `scores` and `quality` are [n]; all n(n-1)/2 pairs are compared. Returns (accuracy, low, high); the 95 % interval
    treats the accuracy as a ratio of U-statistics, since the pairs share their members. Raises ValueError where no
    two answers differ in quality.
    """
    unequal = quality[:, None] != quality[None, :]
    if not unequal.any():
        raise ValueError("no two answers differ in quality")
    agreement = np.sign(scores[:, None] - scores[None, :]) * np.sign(quality[:, None] - quality[None, :])
    right = np.where(unequal, (agreement + 1) / 2, 0.0)
    accuracy = float(right.sum() / unequal.sum())
    influence = (right.sum(axis=1) - accuracy * unequal.sum(axis=1)) * len(scores) / unequal.sum()
    half = Z95 * 2 * float(influence.std()) / math.sqrt(len(scores))
    return accuracy, accuracy - half, accuracy + half
