"""The statistics of evaluation, against scipy, scikit-learn and the formulas computed naively."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LinearRegression

from stages.algorithms.statistics import (
    beats,
    best_with_top_score,
    calibration_error,
    in_exact_order,
    pairs_in_order,
    rank_correlations,
    ratio_estimate,
)

SCORES = st.sampled_from([0.0, 1.0, 2.5, 3.0, 5.0])
ANSWERS = st.lists(st.tuples(SCORES, st.integers(0, 3)), min_size=2, max_size=7)
UNSCORED = st.lists(st.tuples(SCORES | st.just(math.nan), st.integers(0, 3)), min_size=2, max_size=7)
VOTES = st.lists(SCORES, max_size=5).map(np.array)


def arrays(answers: list[tuple[float, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([score for score, _ in answers]), np.array([rank for _, rank in answers])


@given(UNSCORED)
def test_pairs_in_order_counts_each_pair_once(answers: list[tuple[float, int]]) -> None:
    right, pairs = 0.0, 0
    for (score, rank), (other, other_rank) in combinations(answers, 2):
        if rank != other_rank:
            better, worse = (score, other) if rank < other_rank else (other, score)
            pairs += 1
            right += 1 if better > worse else 0.5 if better == worse else 0
            right += math.isnan(worse) and not math.isnan(better)
    assert pairs_in_order(*arrays(answers)) == (right, pairs)


@given(ANSWERS)
def test_exact_order_needs_every_pair_and_leaves_equal_ranks_open(answers: list[tuple[float, int]]) -> None:
    strict = all(one[0] > two[0] for one in answers for two in answers if one[1] < two[1])
    assert in_exact_order(*arrays(answers)) == strict


def test_exact_order_by_hand() -> None:
    assert in_exact_order(np.array([4.0, 2.0, 3.0]), np.array([0, 1, 1]))
    assert not in_exact_order(np.array([4.0, 4.0, 3.0]), np.array([0, 1, 1]))


def test_a_judge_that_gives_no_score_orders_nothing() -> None:
    """It is not half right: two answers without a score are no tie."""
    scores, ranks = np.full(3, math.nan), np.array([0, 1, 2])
    assert pairs_in_order(scores, ranks) == (0, 3)
    assert not in_exact_order(scores, ranks)
    assert rank_correlations(scores, ranks) == (0, 0)
    assert pairs_in_order(np.array([1.0, math.nan, math.nan]), ranks) == (2, 3)


def test_five_best_counts_the_perfect_scores_that_people_rank_first() -> None:
    scores, ranks = np.array([5.0, 5.0, 4.5, 5.0]), np.array([0, 0, 1, 2])
    assert best_with_top_score(scores, ranks, 5) == (2, 3)
    assert best_with_top_score(scores, ranks, 4) == (0, 0)


def test_rank_correlations_by_hand() -> None:
    """Four answers without ties, one neighbouring pair swapped: rho = 1 - 6*2/(4*15), tau = (5 - 1)/6."""
    spearman, kendall = rank_correlations(np.array([3.0, 4.0, 2.0, 1.0]), np.array([0, 1, 2, 3]))
    assert (spearman, kendall) == pytest.approx((0.8, 2 / 3))


def test_an_answer_without_a_score_has_the_lowest_place() -> None:
    ranks = np.array([0, 1, 2, 3])
    lowest = rank_correlations(np.array([3.0, -1.0, 2.0, 1.0]), ranks)
    assert rank_correlations(np.array([3.0, math.nan, 2.0, 1.0]), ranks) == lowest


@given(ANSWERS)
def test_rank_correlations_agree_with_their_definitions(answers: list[tuple[float, int]]) -> None:
    scores, ranks = arrays(answers)
    if len(set(ranks)) == 1:
        return
    found = rank_correlations(scores, ranks)
    if len(set(scores)) == 1:
        assert found == (0, 0)
        return
    pearson = np.corrcoef(stats.rankdata(scores), stats.rankdata(-ranks))[0, 1]
    signs = [
        (np.sign(one[0] - two[0]), np.sign(two[1] - one[1])) for one, two in combinations(answers, 2)
    ]  # concordance of each pair, ties 0
    agreement = sum(a * b for a, b in signs)
    tau_b = agreement / math.sqrt(sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs))
    assert found == pytest.approx((pearson, tau_b))


@given(VOTES, VOTES)
def test_beats_is_the_share_of_pairs_of_votes(votes: np.ndarray, others: np.ndarray) -> None:
    if len(votes) and len(others):
        wins = sum((a > b) + 0.5 * (a == b) for a in votes for b in others)
        assert beats(votes, others) == pytest.approx(wins / (len(votes) * len(others)))
    if len(votes) or len(others):
        assert beats(votes, others) + beats(others, votes) == pytest.approx(1)


def test_an_answer_without_votes_loses() -> None:
    none, some = np.empty(0), np.array([0.0])
    assert (beats(some, none), beats(none, some)) == (1, 0)


def test_calibration_error_by_hand() -> None:
    """Certain of the truth three times of four: |1 - 0.75| where it said 1, |0 - 0.25| where it said 0."""
    assert calibration_error(np.array([1.0, 1.0, 1.0, 0.0])) == pytest.approx(0.25)
    assert calibration_error(np.ones(5)) == 0
    assert calibration_error(np.zeros(5)) == 1
    assert calibration_error(np.full(5, 0.5)) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_calibration_error_is_the_weighted_gap_of_ten_bins(chances: list[float]) -> None:
    truth = np.array(chances)
    predictions = [(p, 1) for p in truth] + [(1 - p, 0) for p in truth]
    bins: dict[int, list[tuple[float, int]]] = {}
    edges = np.linspace(0, 1, 11)
    for p, outcome in predictions:
        bins.setdefault(int(max(1, (p > edges).sum())), []).append((p, outcome))
    gap = sum(abs(sum(o for _, o in items) - sum(p for p, _ in items)) for items in bins.values())
    assert calibration_error(truth) == pytest.approx(gap / len(predictions), abs=1e-9)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=30))
def test_with_equal_weights_it_is_the_mean_with_its_standard_error(values: list[float]) -> None:
    found = ratio_estimate(np.array(values), np.ones(len(values)))
    assert found.n == len(values)
    if len(set(values)) == 1:
        assert found == (pytest.approx(values[0]), None, None, len(values))
        return
    half = stats.norm.ppf(0.975) * stats.sem(values)
    assert found[:3] == pytest.approx((np.mean(values), np.mean(values) - half, np.mean(values) + half), abs=1e-9)


def test_ratio_estimate_is_pooled_and_its_interval_is_of_the_residuals() -> None:
    rng = np.random.default_rng(5)
    weights = rng.integers(1, 7, 50)
    sums = rng.binomial(weights, 0.7)
    found = ratio_estimate(sums, weights)
    # The pooled ratio is the slope through the origin of a regression weighted with 1 / weight.
    slope = LinearRegression(fit_intercept=False).fit(weights[:, None], sums, 1 / weights).coef_[0]
    assert found.value == pytest.approx(slope)
    residuals = sums - slope * weights
    variance = (residuals**2).sum() / 49 / 50 / weights.mean() ** 2
    assert found.high is not None
    assert found.high - found.value == pytest.approx(stats.norm.ppf(0.975) * math.sqrt(variance))


def test_the_interval_covers_the_truth_19_times_of_20() -> None:
    """Answers of a prompt share its difficulty: an interval over answers instead of prompts would be far too narrow."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        chance = rng.beta(1, 1, 60)  # accuracy of each prompt; 1/2 on average
        found = ratio_estimate(rng.binomial(6, chance), np.full(60, 6))
        assert found.low is not None and found.high is not None  # noqa: PT018
        covered += found.low <= 0.5 <= found.high
    assert 0.93 <= covered / 1000 <= 0.97


@given(st.floats(0, 1), st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_prompts_that_agree_exactly_have_no_interval(share: float, numbers: list[int]) -> None:
    """`100 % ± 0 %` would claim certainty, from however few prompts."""
    right, asked = (np.array([part * number for number in numbers], dtype=float) for part in (1, 3))
    assert ratio_estimate(right, asked)[1:3] == (None, None)
    assert ratio_estimate(np.full(len(numbers), share), np.ones(len(numbers)))[1:3] == (None, None)


def test_one_prompt_has_no_interval_and_none_has_no_value() -> None:
    assert ratio_estimate(np.array([3.0]), np.array([4.0])) == (0.75, None, None, 1)
    with pytest.raises(ValueError, match="no units"):
        ratio_estimate(np.empty(0), np.empty(0))
