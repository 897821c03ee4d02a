"""The length-controlled win rate: what length alone wins is taken away, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from stages.algorithms.length_control import length_controlled
from stages.algorithms.statistics import SHARE, ratio_estimate


def drawn(seed: int, count: int, skill: float, bias: float) -> tuple[np.ndarray, np.ndarray]:
    """Wins and length differences, of a model that writes longer by half a standard deviation; a judge sees its `skill`
    and, `bias` times, tanh of the length."""
    chance = np.random.default_rng(seed)
    differences = chance.normal(30, 60, count)
    share = expit(skill + bias * np.tanh(differences / differences.std(ddof=1)))
    return (chance.random(count) < share).astype(float), differences


def test_a_judge_that_likes_length_alone_finds_no_better_model() -> None:
    wins, differences = drawn(0, 2000, skill=0.0, bias=2.0)
    assert wins.mean() == pytest.approx(0.61, abs=0.02)
    found = length_controlled(wins, differences, np.arange(2000))
    assert found is not None
    assert found.value == pytest.approx(0.5, abs=0.03)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.5 < found.high


def test_the_interval_covers_the_true_rate() -> None:
    """Nominal 95 %; 300 draws put 91 % more than three standard errors below."""
    covered = []
    for seed in range(300):
        found = length_controlled(*drawn(seed, 60, skill=0.4, bias=1.5), np.arange(60))
        assert found is not None
        covered.append(found.low <= expit(0.4) <= found.high)  # type: ignore[operator]
    assert np.mean(covered) > 0.91


def test_the_fit_by_hand() -> None:
    """Two lengths, seen ten times each: the fit without penalty meets both shares, 0.8 and 0.4. tanh(+-d / sd) is
    +-tanh(0.9747), so that the constant is the mean of the logits."""
    wins = np.array([1.0] * 8 + [0.0] * 2 + [1.0] * 4 + [0.0] * 6)
    differences = np.array([50.0] * 10 + [-50.0] * 10)
    found = length_controlled(wins, differences, np.arange(20))
    assert found is not None
    assert found.value == pytest.approx(expit((logit(0.8) + logit(0.4)) / 2), abs=1e-3)


def test_equal_lengths_leave_the_win_rate_with_its_interval() -> None:
    wins, units = np.array([1, 0.5, 0, 1]), np.array([0, 0, 1, 2])
    expected = ratio_estimate(np.array([1.5, 0, 1]), np.array([2, 1, 1]), SHARE)
    assert length_controlled(wins, np.zeros(4), units) == expected


def test_one_length_difference_tells_nothing() -> None:
    assert length_controlled(np.array([1.0, 0.0]), np.array([5, 5]), np.arange(2)) is None


def test_who_always_wins_does_so_at_any_length() -> None:
    found = length_controlled(np.ones(3), np.array([1, 2, 3]), np.arange(3))
    assert found == ratio_estimate(np.ones(3), np.ones(3), SHARE)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(-500, 500)), min_size=1, max_size=12))
def test_the_other_side_has_the_rest(comparisons: list[tuple[float, int]]) -> None:
    wins, differences = np.array(comparisons).T
    units = np.arange(len(wins)) // 2
    found, other = length_controlled(wins, differences, units), length_controlled(1 - wins, -differences, units)
    if found is None:
        assert other is None
        return
    assert other is not None
    assert 0 <= found.value <= 1
    assert found.value == pytest.approx(1 - other.value, abs=1e-6)
    if found.low is not None:
        assert found.low == pytest.approx(1 - other.high, abs=1e-5)  # type: ignore[operator]
