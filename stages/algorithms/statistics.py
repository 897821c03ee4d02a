"""How well scores order ranked answers, prompt by prompt, and means over prompts with confidence intervals.

Of one prompt: `scores` [k], the judge's, higher is better, NaN where it gave none, which is below all others; `ranks`
[k], the reference's, 0 is the best, equal ranks are ties. Prompts are independent of each other, what belongs to one
prompt is not.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.calibration import calibration_curve

Z95 = 1.959963984540054
CALIBRATION_BINS = 10


class Estimate(NamedTuple):
    """A value with the ends of its 95 % interval (None where it has none), from `n` independent units."""

    value: float
    low: float | None
    high: float | None
    n: int


def ratio_estimate(sums: np.ndarray, weights: np.ndarray) -> Estimate:
    """`sums.sum() / weights.sum()` over independent units [n] (prompts), each with a sum and a positive weight.

    With the weights 1 it is the mean. The interval is the normal one of a ratio of means (linearised: the deviations
    `sums - value * weights` are independent). There is none where all units agree exactly, a single one included: no
    spread was seen, which does not show that there is none. Raises ValueError without units.
    """
    if not len(sums):
        raise ValueError("no units to average")
    value, n = float(sums.sum() / weights.sum()), len(sums)
    if (sums / weights == sums[0] / weights[0]).all():
        return Estimate(value, None, None, n)
    half = Z95 * float((sums - value * weights).std(ddof=1) / (np.sqrt(n) * weights.mean()))
    return Estimate(value, value - half, value + half, n)


def pairs_in_order(scores: np.ndarray, ranks: np.ndarray) -> tuple[float, int]:
    """Among the pairs of unequal rank: how many the scores order rightly, and how many there are.

    A tie of scores is one half; two answers without a score are no tie: the judge said nothing about them, rightly or
    wrongly, and that counts 0.
    """
    placed = _placed(scores)
    above = placed[:, None] > placed[None, :]
    tied = (placed[:, None] == placed[None, :]) & ~np.isnan(scores)[:, None]
    better = ranks[:, None] < ranks[None, :]
    return float((above + tied / 2)[better].sum()), int(better.sum())


def in_exact_order(scores: np.ndarray, ranks: np.ndarray) -> bool:
    """Whether every answer has a higher score than every answer of a worse rank; equal ranks leave their order open."""
    right, pairs = pairs_in_order(scores, ranks)
    return right == pairs


def best_with_top_score(scores: np.ndarray, ranks: np.ndarray, top: float) -> tuple[int, int]:
    """How many answers with the score `top` share the best rank, and how many have that score at all (the "5-best" of
    Self-Rewarding, table 4)."""
    perfect = scores == top
    return int((perfect & (ranks == ranks.min())).sum()), int(perfect.sum())


def rank_correlations(scores: np.ndarray, ranks: np.ndarray) -> tuple[float, float]:
    """Spearman's rho and Kendall's tau-b between scores and ranks, 1 if the order is right; 0 where all scores are
    equal, or there are none, since that says nothing about the order. At least two ranks must differ."""
    placed = _placed(scores)
    if (placed == placed[0]).all():
        return 0.0, 0.0
    return float(stats.spearmanr(placed, -ranks).statistic), float(stats.kendalltau(placed, -ranks).statistic)


def beats(votes: np.ndarray, others: np.ndarray) -> float:
    """Probability by the votes on two answers that the first is the better one: the share of pairs of a vote of each
    in which it gets more, ties one half. An answer without votes loses to one that has some; one of the two must."""
    if not len(votes) or not len(others):
        return float(bool(len(votes)))
    return float((np.sign(votes[:, None] - others[None, :]) + 1).mean() / 2)


def calibration_error(truth: np.ndarray) -> float:
    """Expected calibration error of the probabilities [n] that were given to what is true, of two possibilities.

    Each counts twice, as p for the true and 1 - p for the false outcome, in 10 equal bins; the error is the mean over
    the bins, weighed by their number of predictions, of |share that came true - mean prediction|.
    """
    predicted = np.concatenate([truth, 1 - truth])
    outcome = np.repeat([1, 0], len(truth))
    came_true, mean = calibration_curve(outcome, predicted, n_bins=CALIBRATION_BINS)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)[1:-1]
    sizes = np.bincount(np.searchsorted(edges, predicted))
    return float(np.average(np.abs(came_true - mean), weights=sizes[sizes > 0]))


def _placed(scores: np.ndarray) -> np.ndarray:
    """Scores, with the lowest place for answers that have none."""
    return np.where(np.isnan(scores), -np.inf, scores)
