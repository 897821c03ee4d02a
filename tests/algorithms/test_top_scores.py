"""What counts as a top score, once for the gate and the report."""

import math
from collections import Counter

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.algorithms.top_scores import top_from, top_share
from stages.config import ScoreSection
from stages.score import VoteTally, _top


def test_the_last_tenth_of_the_scale_is_its_top() -> None:
    assert (top_from(5), top_from(10, 0), top_from(3, -7)) == (4.5, 9, 2)
    scores = pl.Series([5.0, 4.9, 4.75, 4.5, 4.49, 0.0, None, None])
    assert top_share(scores, 5) == pytest.approx(4 / 6)
    assert top_share(scores, 10) == 0
    assert top_share(scores, 5, 4) == pytest.approx(2 / 6), "the scale is narrower: its top begins at 4.9"


def test_no_score_has_no_share() -> None:
    assert top_share(pl.Series([], dtype=pl.Float64), 5) is None
    assert top_share(pl.Series([None], dtype=pl.Float64), 5) is None


@given(st.lists(st.integers(0, 20), min_size=1), st.floats(-3, 3), st.sampled_from([0.25, 1.0, 5.0]))
def test_a_scale_may_be_moved_and_stretched(steps: list[int], low: float, step: float) -> None:
    """Scores in twentieths of the scale: the top are 18, 19 and 20, but that rounding may decide for 18."""
    scores = pl.Series([low + step * number for number in steps])
    share = top_share(scores, low + 20 * step, low)
    assert share is not None
    counts = Counter(steps)
    surely, perhaps = counts[19] + counts[20], counts[18]
    assert surely <= round(share * len(steps)) <= surely + perhaps
    assert math.isclose(share * len(steps), round(share * len(steps)), abs_tol=1e-9)


@given(st.lists(st.sampled_from([0.0, 3.0, 4.4, 4.5, 4.9, 5.0]), min_size=1))
def test_the_gate_of_the_scores_counts_the_same(scores: list[float]) -> None:
    tally = VoteTally()
    tally.values.update(scores)
    assert _top(tally, ScoreSection()) / len(scores) == pytest.approx(top_share(pl.Series(scores), 5))
