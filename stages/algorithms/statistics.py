"""How well scores order ranked answers, prompt by prompt, and means over prompts with confidence intervals.

Of one prompt: `scores` [k], the judge's, higher is better, NaN where it gave none, which is below all others; `ranks`
[k], the reference's, 0 is the best, equal ranks are ties. Prompts are independent of each other, what belongs to one
prompt is not.

The intervals: the standard error of a ratio of sums is the linearised one (Cochran 1977, Sampling Techniques, section
6.3). A number with two bounds gets Wilson's interval (1927, Journal of the American Statistical Association 22), with
the effective number of units p (1 - p) / variance in place of their number (the design effect: Kish 1965, Survey
Sampling) and Student's t in place of the normal quantile, as Korn and Graubard (1998, Survey Methodology 24) do for
shares of clustered samples. Any other number gets Student's t interval.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import stats
from sklearn.calibration import calibration_curve

CONFIDENCE = 0.95
CALIBRATION_BINS = 10
_ROUNDING = 1e-12
"""What rounding alone can leave of a difference that is none, as a part of the value or of 1."""


class Bounds(NamedTuple):
    """The least and the greatest value that a number can have; infinite where there is no such bound."""

    low: float
    high: float

    @property
    def of_gain(self) -> "Bounds":
        """Bounds of a difference of two such numbers."""
        return Bounds(self.low - self.high, self.high - self.low)


SHARE = Bounds(0, 1)
CORRELATION = Bounds(-1, 1)
LENGTH = Bounds(0, math.inf)
UNBOUNDED = Bounds(-math.inf, math.inf)


class Estimate(NamedTuple):
    """A value with the ends of its 95 % interval (None where it has none), from `n` independent units."""

    value: float
    low: float | None
    high: float | None
    n: int


def ratio_estimate(sums: np.ndarray, weights: np.ndarray, bounds: Bounds) -> Estimate:
    """`sums.sum() / weights.sum()` over independent units [n] (prompts), each with a sum and a positive weight.

    With the weights 1 it is the mean. The interval stays within `bounds`. There is none for a single unit, nor where
    all units agree exactly, since no spread was seen, which does not show that there is none; but where they all agree
    on an end of two bounds, each counts as one trial that came out that way. Raises ValueError without units.
    """
    value, residuals = _ratio(sums, weights)
    return linearised_estimate(value, residuals, bounds)


def gain_estimate(
    sums: np.ndarray, weights: np.ndarray, sums_before: np.ndarray, weights_before: np.ndarray, bounds: Bounds
) -> Estimate:
    """How much greater the first ratio is than the second one, both over the same units [n] in the same order.

    What a unit has in common in both (a hard prompt, a seed) cancels: the interval is that of its differences. `bounds`
    are those of a ratio. Otherwise as `ratio_estimate`.
    """
    (value, residuals), (before, residuals_before) = _ratio(sums, weights), _ratio(sums_before, weights_before)
    return linearised_estimate(value - before, residuals - residuals_before, bounds.of_gain)


def linearised_estimate(value: float, residuals: np.ndarray, bounds: Bounds) -> Estimate:
    """A value whose error is the mean of the `residuals` [n] of independent units; otherwise as `ratio_estimate`."""
    n, finite = len(residuals), math.isfinite(bounds.low) and math.isfinite(bounds.high)
    error = float(residuals.std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
    rounding = _ROUNDING * max(1.0, abs(value))
    spread, at_end = error > rounding, min(value - bounds.low, bounds.high - value) <= rounding
    if n == 1 or not (spread or (finite and at_end)):
        return Estimate(value, None, None, n)
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
    if not finite:
        half = quantile * error
        return Estimate(value, max(bounds.low, value - half), min(bounds.high, value + half), n)
    width = bounds.high - bounds.low
    share = min(1.0, max(0.0, (value - bounds.low) / width))
    effective = share * (1 - share) * (width / error) ** 2 if spread else n
    low, high = (bounds.low + width * end for end in _wilson(share, effective, quantile))
    # The ends of a share of 0 or 1 are rounded.
    return Estimate(value, max(bounds.low, min(low, value)), min(bounds.high, max(high, value)), n)


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


def _ratio(sums: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray]:
    """The ratio, and each unit's part [n] in its linearised error: the ratio's variance is that of their mean."""
    if not len(sums):
        raise ValueError("no units to average")
    value = float(sums.sum() / weights.sum())
    return value, (sums - value * weights) / weights.mean()


def _wilson(share: float, trials: float, quantile: float) -> tuple[float, float]:
    """Ends of Wilson's interval for a share of `trials`, which need not be a whole number."""
    pull = quantile**2 / trials
    centre = (share + pull / 2) / (1 + pull)
    half = math.sqrt(share * (1 - share) * pull + pull**2 / 4) / (1 + pull)
    return centre - half, centre + half


def _placed(scores: np.ndarray) -> np.ndarray:
    """Scores, with the lowest place for answers that have none."""
    return np.where(np.isnan(scores), -np.inf, scores)
