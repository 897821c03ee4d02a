"""The rules of Meta-Rewarding (arXiv 2407.19594, section 2), one golden case each, worked out by hand."""

from itertools import permutations

import numpy as np
import polars as pl
import pytest

from stages.algorithms.comparisons import candidate_to_compare, comparisons
from stages.algorithms.pair_members import actor_members, judge_members
from stages.algorithms.ratings import MEAN, SCALE, battle_matrix, rate, slot_weights, tabulate
from stages.config import PairsSection, at
from stages.contracts.ids import Seeds
from stages.contracts.schema import frame
from stages.tables import BATTLES, SCORES, VOTES

KEYS = {"prompt_id": "p", "candidate_id": "c"}


def members(scores: list[float], tokens: list[int], rho: float) -> tuple[int, int]:
    rows = {"score": scores, "tokens": tokens, "candidate_id": [str(number) for number in range(len(scores))]}
    data = pl.DataFrame(rows).with_columns(
        prompt_id=pl.lit("p"), variance=0.5, valid_votes=11, draw=pl.int_range(pl.len())
    )
    row = actor_members(data, rho).row(0, named=True)
    return int(row["chosen_candidate_id"]), int(row["rejected_candidate_id"])


@pytest.mark.parametrize(
    ("rho", "expected"),
    [
        (0.0, (0, 6)),  # the extremes themselves
        (0.1, (1, 6)),  # [4.6, 5] and [1, 1.4]
        (0.32, (2, 5)),  # [3.72, 5] and [1, 2.28]
        (0.4, (3, 5)),  # [3.4, 5] and [1, 2.6]; both ends belong to the window
    ],
)
def test_chosen_is_the_shortest_of_the_upper_window_and_rejected_the_longest_of_the_lower(
    rho: float, expected: tuple[int, int]
) -> None:
    scores = [5.0, 4.6, 3.8, 3.4, 3.0, 2.0, 1.0]
    tokens = [900, 800, 700, 600, 10, 990, 300]
    assert members(scores, tokens, rho) == expected


def test_length_control_follows_the_papers_schedule() -> None:
    settings = PairsSection(length_control=[0.0, 0.32, 0.32, 0.4], judge_share=[0.5, 0.5, 0.0, 0.0])
    assert [at(settings.length_control, iteration) for iteration in (1, 2, 3, 4)] == [0.0, 0.32, 0.32, 0.4]
    assert [at(settings.judge_share, iteration) > 0 for iteration in (1, 2, 3, 4)] == [True, True, False, False]


def test_the_response_with_the_highest_variance_trains_the_judge() -> None:
    given = [("a", 0.2, 11, "ok"), ("b", 0.9, 11, "ok"), ("c", 0.5, 11, "ok"),
             ("d", None, 0, "verified"), ("e", 2.0, 11, "shortened")]  # fmt: skip
    rows = [
        {"prompt_id": "p", "candidate_id": name, "score": 3.0, "variance": variance, "valid_votes": valid,
         "votes": 11, "status": status}
        for name, variance, valid, status in given
    ]  # fmt: skip
    assert candidate_to_compare(frame(SCORES, rows), seeds=Seeds(0, 1)).rows() == [("p", "b")]


def test_eleven_judgements_make_110_comparisons() -> None:
    votes = [{**KEYS, "vote": vote, "parse_status": "ok"} for vote in range(11)]
    pairs = comparisons(frame(VOTES, votes), None, seeds=Seeds(0, 1))
    assert set(pairs.select("vote_a", "vote_b").rows()) == set(permutations(range(11), 2))


def battles(winners: dict[tuple[int, int], str]) -> pl.DataFrame:
    rows = [
        {**KEYS, "vote_a": a, "vote_b": b, "winner": winner, "parse_status": "ok"} for (a, b), winner in winners.items()
    ]
    return frame(BATTLES, rows)


# Four wins from the first slot and two from the second: w1 = 2/6, w2 = 4/6.
SIX = battles({(0, 1): "a", (1, 0): "a", (0, 2): "a", (2, 0): "b", (1, 2): "a", (2, 1): "b"})
B = np.array([[0, 1 / 3, 1], [1 / 3, 0, 1], [0, 0, 0]])


def test_a_win_weighs_the_other_slots_share_of_wins() -> None:
    assert slot_weights(SIX) == pytest.approx((2 / 6, 4 / 6))
    assert battle_matrix(tabulate(SIX), "paper")[0] == pytest.approx(B)


def test_ratings_maximise_the_likelihood_of_the_battles() -> None:
    # 0 and 1 are equal, so one unknown is left: d, the log-odds over 2, with 2 weighted wins in 2 (1 + prior) battles.
    prior = 0.5
    ratings = rate(SIX, "paper", prior)["rating"].to_list()
    odds = np.log((1 + prior / 2) / (prior / 2))
    assert ratings == pytest.approx([MEAN + SCALE * odds / 3] * 2 + [MEAN - 2 * SCALE * odds / 3])


def test_the_judge_learns_from_the_highest_and_the_lowest_rating() -> None:
    data = rate(battles({(0, 1): "a", (1, 0): "b", (1, 2): "a", (2, 1): "b", (0, 2): "a", (2, 0): "b"}), "paper", 0.01)
    row = judge_members(data.with_columns(draw=pl.int_range(pl.len()))).row(0, named=True)
    assert (row["chosen_vote"], row["rejected_vote"]) == (0, 2)
