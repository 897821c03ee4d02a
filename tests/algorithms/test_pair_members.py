"""Which members form a pair, against direct readings of the rules in plain Python."""

import math
from functools import partial
from itertools import permutations
from random import Random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.algorithms.pair_members import RATING_TOLERANCE, actor_members, all_members, at_an_end, judge_members
from stages.algorithms.ratings import bradley_terry

Rows = list[tuple[float, int, int, float | None]]
"""(score, tokens, valid_votes, variance) of a prompt's candidates; no variance where checks gave the score."""
VOTED = st.tuples(
    st.integers(0, 20).map(lambda n: n / 4), st.integers(1, 6), st.integers(1, 3), st.integers(0, 4).map(float)
)
CHECKED = st.tuples(st.sampled_from([0.0, 2.5, 5.0]), st.integers(1, 6), st.just(0), st.none())
CANDIDATES = st.lists(st.one_of(VOTED, CHECKED), min_size=2, max_size=7)
RHO = st.sampled_from([0.0, 0.1, 0.25, 0.32, 0.4, 0.5, 1.0])


def candidates(rows: Rows, prompt: str = "p") -> pl.DataFrame:
    """The candidate's id is its index, and so is its draw (shuffled, so that ids and draws do not agree)."""
    types = {"score": pl.Float64, "tokens": pl.Int64, "valid_votes": pl.Int64, "variance": pl.Float64}
    data = pl.DataFrame(rows, schema=types, orient="row")
    number = pl.int_range(data.height)
    return data.with_columns(
        pl.lit(prompt).alias("prompt_id"), number.cast(pl.String).alias("candidate_id"), draw=number * 5 % 7
    )


def select(rows: Rows, rho: float) -> tuple[int, int]:
    row = actor_members(candidates(rows), rho).row(0, named=True)
    return int(row["chosen_candidate_id"]), int(row["rejected_candidate_id"])


def first(rows: Rows, window: list[int], length: int) -> int:
    """The candidate that comes first: by length (times `length`), votes, variance, draw."""

    def place(index: int) -> tuple[float, ...]:
        _, tokens, votes, variance = rows[index]
        return length * tokens, -votes, math.inf if variance is None else variance, index * 5 % 7

    return min(window, key=place)


@settings(deadline=None)
@given(CANDIDATES, RHO)
def test_members_are_those_of_the_papers_windows(rows: Rows, rho: float) -> None:
    scores = [row[0] for row in rows]
    low, high = min(scores), max(scores)
    top = [i for i, score in enumerate(scores) if score >= (1 - rho) * high + rho * low - 1e-9]
    bottom = [i for i, score in enumerate(scores) if score <= (1 - rho) * low + rho * high + 1e-9]
    controlled = int(rho > 0)
    assert select(rows, rho) == (first(rows, top, controlled), first(rows, bottom, -controlled))


@settings(deadline=None)
@given(CANDIDATES, st.sampled_from([0.0, 0.25, 0.5, 1.0, 4.0]))
def test_all_pairs_are_those_over_the_margin_and_the_widest(rows: Rows, min_margin: float) -> None:
    pairs = []
    for chosen, rejected in permutations(range(len(rows)), 2):
        margin = rows[chosen][0] - rows[rejected][0]
        if margin > 0 or (margin == 0 and chosen < rejected):
            both = rows[chosen], rows[rejected]
            variances = [row[3] for row in both if row[3] is not None]
            doubt = sum(variances) if len(variances) == 2 else math.inf
            draw = (chosen * 5 % 7) ^ (rejected * 5 % 7)
            pairs.append((-margin, -sum(row[2] for row in both), doubt, draw, str(chosen), str(rejected)))
    pairs.sort()
    expected = [(*pair[4:], n) for n, pair in enumerate(pairs) if -pair[0] > min_margin or n == 0]
    found = all_members(candidates(rows), min_margin)
    assert found.select("chosen_candidate_id", "rejected_candidate_id", "pair").rows() == expected


@settings(deadline=None)
@given(CANDIDATES, RHO, st.randoms())
def test_row_order_and_other_prompts_do_not_matter(rows: Rows, rho: float, random: Random) -> None:
    both = pl.concat([candidates(rows, "p"), candidates(rows[::-1], "q")])
    order = list(range(both.height))
    random.shuffle(order)
    for choose in (partial(actor_members, rho=rho), partial(all_members, min_margin=rho)):
        assert choose(both[order]).equals(choose(both))
        assert choose(both).filter(pl.col("prompt_id") == "p").equals(choose(candidates(rows)))


def test_length_decides_inside_the_window_only() -> None:
    rows = [(5.0, 90, 3, 0), (4.0, 40, 3, 0), (3.0, 10, 3, 0), (2.0, 80, 3, 0), (0.0, 20, 3, 0)]
    assert select(rows, 0) == (0, 4)
    assert select(rows, 0.2) == (1, 4)  # windows [4, 5] and [0, 1]
    assert select(rows, 0.4) == (2, 3)  # windows [3, 5] and [0, 2]


def test_a_lone_vote_does_not_pass_for_a_sure_one() -> None:
    """D11: a single vote, whose variance is 0, beat three that agree."""
    rows = [(4.0, 5, 1, 0.0), (4.0, 5, 3, 0.5), (1.0, 5, 1, 0.0), (1.0, 5, 3, 0.2), (1.0, 5, 3, 0.1)]
    assert select(rows, 0) == (1, 4)


def test_length_does_not_decide_without_length_control() -> None:
    assert select([(4.0, 50, 3, 0.1), (4.0, 5, 3, 0.2), (1.0, 5, 3, 0.1), (1.0, 50, 3, 0.2)], 0) == (0, 2)


def rated(ratings: list[float]) -> pl.DataFrame:
    votes = list(range(len(ratings)))
    data = pl.DataFrame({"vote": votes, "rating": map(float, ratings), "draw": votes})
    data = data.with_columns(battles=pl.lit(2), alike=pl.lit(0))
    return data.with_columns(prompt_id=pl.lit("p"), candidate_id=pl.lit("c"))


def test_judge_members_are_the_ends_whatever_lies_between() -> None:
    row = judge_members(rated([1000, 1100, 1000, 900])).row(0, named=True)
    assert (row["chosen_vote"], row["rejected_vote"], row["gap"]) == (1, 3, 200)


def test_equals_at_an_end_are_drawn_despite_rounding() -> None:
    row = judge_members(rated([900, 1100, 1100 + 1e-9])).row(0, named=True)
    assert (row["chosen_vote"], row["rejected_vote"]) == (1, 0)


RATINGS = st.lists(st.sampled_from([900.0, 1000.0, 1000.0 + 1e-8, 1003.0, 1100.0]), min_size=1, max_size=7)


@settings(deadline=None)
@given(RATINGS, st.randoms())
def test_judge_members_are_the_first_drawn_at_each_end(ratings: list[float], random: Random) -> None:
    data = rated(ratings).with_columns(draw=pl.col("vote") * 5 % 7)
    ends = max(ratings) - RATING_TOLERANCE, min(ratings) + RATING_TOLERANCE
    best = min((v for v, rating in enumerate(ratings) if rating >= ends[0]), key=lambda vote: vote * 5 % 7)
    worst = min((v for v, rating in enumerate(ratings) if rating <= ends[1]), key=lambda vote: vote * 5 % 7)
    order = list(range(len(ratings)))
    random.shuffle(order)
    for rows in (data, data[order], data.filter(at_an_end())):
        row = judge_members(rows).row(0, named=True)
        assert (row["chosen_vote"], row["rejected_vote"]) == (best, worst)
        assert row["gap"] == max(ratings) - min(ratings)


def test_a_tie_in_the_middle_costs_no_pair() -> None:
    """D30: the clear best and worst were discarded with it."""
    battles = {(0, 1): 2.0, (0, 2): 2.0, (0, 3): 2.0, (1, 3): 2.0, (2, 3): 2.0, (1, 2): 1.0, (2, 1): 1.0}
    won = np.zeros((1, 4, 4))
    for (winner, loser), weight in battles.items():
        won[0, winner, loser] = weight
    strength = bradley_terry(won, 0.01)[0]
    assert strength[1] == pytest.approx(strength[2], abs=1e-9)
    row = judge_members(rated(list(1000 + 400 * strength))).row(0, named=True)
    assert (row["chosen_vote"], row["rejected_vote"]) == (0, 3)
