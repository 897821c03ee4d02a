"""The win rate that answers would have if they were as long as those that they are compared with.

Judges like long answers. As AlpacaEval 2 does (Dubois et al. 2024, Length-Controlled AlpacaEval, arXiv:2404.04475), a
logistic regression explains each win by a constant and by tanh(d / sd(d)), d being the difference of the lengths; what
it gives for d = 0 is the length-controlled win rate. AlpacaEval's third term, the difficulty of its own 805 prompts for
its own reference model, has no counterpart here, nor has its L1 penalty, chosen by cross-validation.

The interval is the delta method's: what each prompt adds to the error of the fit at d = 0, linearised.
"""

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from stages.algorithms.statistics import SHARE, Estimate, linearised_estimate, ratio_estimate

PENALTY = 0.01
"""Of the squared weight of length, half of it: what keeps it finite where length decides every win. AlpacaEval's own
value (C = 100) where it does without cross-validation."""


def length_controlled(wins: np.ndarray, differences: np.ndarray, units: np.ndarray) -> Estimate | None:
    """The win rate at equal lengths, of comparisons [k] with a win between 0 and 1 (a tie is one half), a difference of
    lengths, and the number from 0 of the independent unit (prompt) that each belongs to.

    Where all wins are equal it is that value; None where all differences are one and not 0: nothing then tells length
    from quality. Raises ValueError without comparisons.
    """
    same = bool(len(differences)) and bool((differences == differences[0]).all())
    if same and differences[0]:
        return None
    if same or not len(wins) or (wins == wins[0]).all():
        return ratio_estimate(np.bincount(units, wins), np.bincount(units), SHARE)
    features = np.column_stack([np.ones(len(wins)), np.tanh(differences / differences.std(ddof=1))])
    weights = _fitted(features, wins)
    value = float(expit(weights[0]))
    expected = expit(features @ weights)
    information = (features.T * expected * (1 - expected)) @ features + np.diag([0, PENALTY])
    parts = (features * (wins - expected)[:, None]) @ np.linalg.inv(information)[0] * value * (1 - value)
    residuals = np.bincount(units, parts)
    return linearised_estimate(value, residuals * len(residuals), SHARE)


def _fitted(features: np.ndarray, wins: np.ndarray) -> np.ndarray:
    """The two weights. Each comparison counts as a win and as a loss, weighted with its share of either: scikit-learn
    takes no shares for outcomes."""
    model = LogisticRegression(C=1 / PENALTY, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    outcomes = np.repeat([1, 0], len(wins))
    model.fit(np.tile(features[:, 1:], (2, 1)), outcomes, sample_weight=np.concatenate([wins, 1 - wins]))
    return np.concatenate([model.intercept_, model.coef_[0]])
