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
    CORRELATION,
    LENGTH,
    SHARE,
    UNBOUNDED,
    Bounds,
    beats,
    best_with_top_score,
    calibration_error,
    gain_estimate,
    in_exact_order,
    pairs_in_order,
    rank_correlations,
    ratio_estimate,
)

SCORES = st.sampled_from([0.0, 1.0, 2.5, 3.0, 5.0])
ANSWERS = st.lists(st.tuples(SCORES, st.integers(0, 3)), min_size=2, max_size=7)
UNSCORED = st.lists(st.tuples(SCORES | st.just(math.nan), st.integers(0, 3)), min_size=2, max_size=7)
SUMS_AND_WEIGHTS = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 9)), min_size=2, max_size=12)
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
def test_without_bounds_it_is_the_mean_with_students_interval(values: list[float]) -> None:
    found = ratio_estimate(np.array(values), np.ones(len(values)), UNBOUNDED)
    assert found.n == len(values)
    if np.ptp(values) < 1e-9:
        return
    low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert found[:3] == pytest.approx((np.mean(values), low, high), abs=1e-9)
    if low < 0 <= min(values):
        assert ratio_estimate(np.array(values), np.ones(len(values)), LENGTH)[1:3] == (0, pytest.approx(high))


def test_ratio_estimate_is_pooled_and_its_interval_is_of_the_residuals() -> None:
    rng = np.random.default_rng(5)
    weights = rng.integers(1, 7, 50)
    sums = rng.binomial(weights, 0.7)
    found = ratio_estimate(sums, weights, UNBOUNDED)
    # The pooled ratio is the slope through the origin of a regression weighted with 1 / weight.
    slope = LinearRegression(fit_intercept=False).fit(weights[:, None], sums, 1 / weights).coef_[0]
    assert found.value == pytest.approx(slope)
    residuals = sums - slope * weights
    variance = (residuals**2).sum() / 49 / 50 / weights.mean() ** 2
    assert found.high is not None
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 49) * math.sqrt(variance))


def test_a_share_of_single_answers_has_wilsons_interval() -> None:
    """Against scipy's, whose quantile is the normal one: with 100,000 prompts the difference is in the fifth digit."""
    right = np.repeat([1.0, 0.0], [90_000, 10_000])
    expected = stats.binomtest(90_000, 100_000).proportion_ci(0.95, method="wilson")
    found = ratio_estimate(right, np.ones(100_000), SHARE)
    assert found[:3] == pytest.approx((0.9, expected.low, expected.high), abs=1e-6)


def test_wilsons_interval_of_a_few_prompts_by_hand() -> None:
    """3 of 4: variance (3/16) / 3 of the mean, so 3 effective trials; t = 3.1824 of 3 degrees of freedom, t^2 / 3 =
    3.3759: centre (0.75 + 1.6879) / 4.3759, half sqrt(0.1875 * 3.3759 + 1.6879^2) / 4.3759."""
    found = ratio_estimate(np.array([1.0, 1.0, 0.0, 1.0]), np.ones(4), SHARE)
    assert found == pytest.approx((0.75, 0.13069, 0.98357, 4), abs=1e-4)


@given(SUMS_AND_WEIGHTS, st.floats(-3, 3), st.floats(0.1, 9))
def test_a_scale_with_two_bounds_is_a_stretched_share(parts: list[tuple[float, int]], low: float, width: float) -> None:
    """And whatever was measured, the interval holds the value and stays between the bounds."""
    weights = np.array([weight for _, weight in parts], dtype=float)
    share = ratio_estimate(np.array([part for part, _ in parts]) * weights, weights, SHARE)
    scaled = (low + width * np.array([part for part, _ in parts])) * weights
    found = ratio_estimate(scaled, weights, Bounds(low, low + width))
    if share.low is None or share.high is None:
        assert (found.low, found.high) == (None, None)
        return
    assert found[:3] == pytest.approx([low + width * value for value in share[:3] if value is not None], abs=1e-6)
    assert 0 <= share.low <= share.value <= share.high <= 1


COVERAGE = {4: (0.987, 0.957, 0.9635), 15: (0.9605, 0.948, 0.9485), 50: (0.953, 0.9395, 0.9395)}
"""By the number of prompts, as measured with 2000 draws each: the lowest coverage over the true shares 0.5, 0.7, 0.85
and 0.95, of prompts with one answer, with six, and with one to six. `docs/metrics.md` quotes them."""


@pytest.mark.parametrize("prompts", COVERAGE)
def test_the_interval_covers_the_truth_19_times_of_20(prompts: int) -> None:
    """Answers of a prompt share its difficulty: an interval over answers instead of prompts would be far too narrow."""
    rng = np.random.default_rng(0)
    lowest = tuple(
        min(coverage(rng, prompts, truth, fewest, most) for truth in (0.5, 0.7, 0.85, 0.95))
        for fewest, most in ((1, 1), (6, 6), (1, 6))
    )
    assert lowest == pytest.approx(COVERAGE[prompts], abs=0.003)
    assert min(lowest) > 0.93


def coverage(rng: np.random.Generator, prompts: int, truth: float, fewest: int, most: int) -> float:
    """Share of the intervals that hold the truth, where a prompt has from `fewest` to `most` answers."""
    covered = 0
    for _ in range(2000):
        chance = rng.beta(4 * truth, 4 * (1 - truth), prompts)  # of each prompt, `truth` on average
        answers = rng.integers(fewest, most + 1, prompts)
        found = ratio_estimate(rng.binomial(answers, chance), answers, SHARE)
        if found.low is not None and found.high is not None:
            assert 0 <= found.low <= found.value <= found.high <= 1
            covered += found.low <= truth <= found.high
    return covered / 2000


@pytest.mark.parametrize(("prompts", "expected"), [(4, 0.8375), (15, 0.8705), (50, 0.901)])
def test_the_interval_of_uneven_lengths_covers_less(prompts: int, expected: float) -> None:
    """Lognormal ones, most of them short: a few prompts rarely have a long one among them."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        found = ratio_estimate(rng.lognormal(3, 0.95, prompts), np.ones(prompts), LENGTH)
        assert found.low is not None and found.high is not None and found.low >= 0  # noqa: PT018
        covered += found.low <= math.exp(3 + 0.95**2 / 2) <= found.high
    assert covered / 2000 == pytest.approx(expected, abs=0.003)


@given(st.floats(0.01, 0.99), st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_prompts_that_agree_exactly_have_no_interval(share: float, numbers: list[int]) -> None:
    """`70 % ± 0 %` would claim certainty, from however few prompts."""
    right, asked = (np.array([part * number for number in numbers], dtype=float) for part in (1, 3))
    assert ratio_estimate(right, asked, SHARE)[1:3] == (None, None)
    assert ratio_estimate(np.full(len(numbers), share), np.ones(len(numbers)), UNBOUNDED)[1:3] == (None, None)
    assert ratio_estimate(np.zeros(len(numbers)), np.ones(len(numbers)), LENGTH)[1:3] == (None, None)


@given(st.integers(2, 300), st.integers(1, 9))
def test_prompts_that_agree_on_an_end_count_as_a_trial_each(prompts: int, answers: int) -> None:
    """Wilson's interval of n of n is [n / (n + t^2), 1]."""
    asked, t = np.full(prompts, answers), stats.t.ppf(0.975, prompts - 1)
    low = prompts / (prompts + t**2)
    assert ratio_estimate(asked, asked, SHARE) == pytest.approx((1, low, 1, prompts))
    assert ratio_estimate(0 * asked, asked, SHARE) == pytest.approx((0, 0, 1 - low, prompts))
    assert ratio_estimate(-asked, asked, CORRELATION) == pytest.approx((-1, -1, 1 - 2 * low, prompts))


def test_one_prompt_has_no_interval_and_none_has_no_value() -> None:
    assert ratio_estimate(np.array([3.0]), np.array([4.0]), SHARE) == (0.75, None, None, 1)
    assert ratio_estimate(np.array([4.0]), np.array([4.0]), SHARE) == (1, None, None, 1)
    with pytest.raises(ValueError, match="no units"):
        ratio_estimate(np.empty(0), np.empty(0), SHARE)


def test_a_gain_is_measured_on_the_differences_of_the_same_prompts() -> None:
    """Differences 1, 0, 1, 2: mean 1, standard error sqrt((1 + 1) / 3 / 4), though the prompts themselves differ by up
    to 9."""
    before, after, ones = np.array([0.0, 3.0, 6.0, 9.0]), np.array([1.0, 3.0, 7.0, 11.0]), np.ones(4)
    half = stats.t.ppf(0.975, 3) * math.sqrt(2 / 3 / 4)
    assert gain_estimate(after, ones, before, ones, UNBOUNDED) == pytest.approx((1, 1 - half, 1 + half, 4))
    assert gain_estimate(before + 2, ones, before, ones, UNBOUNDED) == (2, None, None, 4)


@given(st.lists(st.tuples(st.integers(1, 6), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=20))
def test_a_gain_is_the_difference_of_both_ratios_and_turns_with_them(rows: list[tuple[int, float, float]]) -> None:
    weights, first, second = np.array(rows).T
    there = gain_estimate(first * weights, weights, second * weights, weights, SHARE)
    back = gain_estimate(second * weights, weights, first * weights, weights, SHARE)
    values = [ratio_estimate(part * weights, weights, SHARE).value for part in (first, second)]
    assert there.value == pytest.approx(values[0] - values[1])
    if there.low is None or there.high is None:
        assert (back.low, back.high) == (None, None)
        return
    assert -1 <= there.low <= there.high <= 1
    assert back[:3] == pytest.approx((-there.value, -there.high, -there.low), abs=1e-9)


def test_the_interval_of_a_gain_covers_no_gain_19_times_of_20() -> None:
    """Two models with the same chances on the same prompts, a few of which are hard for both."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        chance, answers = rng.beta(2, 1, 15), np.full(15, 4)
        found = gain_estimate(rng.binomial(4, chance), answers, rng.binomial(4, chance), answers, SHARE)
        covered += found.low is not None and found.high is not None and found.low <= 0 <= found.high
    assert 0.93 <= covered / 2000 <= 0.97
