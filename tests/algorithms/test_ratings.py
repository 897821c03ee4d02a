"""Position weights and Elo against the paper's formulas, closed forms, and logistic regression."""

import warnings
from pathlib import Path
from random import Random

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from stages import rate as stage
from stages.algorithms.pair_members import RATING_TOLERANCE
from stages.algorithms.ratings import (
    MEAN,
    SCALE,
    PositionWeights,
    battle_matrix,
    bradley_terry,
    flip_rate,
    rate,
    slot_weights,
    tabulate,
)
from stages.contracts.artifacts import read, write
from stages.contracts.schema import frame
from stages.tables import BATTLES, RATINGS, VERDICTS

VERDICT = st.sampled_from(["a", "b", None])
WEIGHTS: tuple[PositionWeights, ...] = ("paper", "none", "agreement")
TOURNAMENT = st.integers(2, 5).flatmap(
    lambda k: st.lists(VERDICT, min_size=k * (k - 1), max_size=k * (k - 1)).map(lambda given: (k, given))
)


def battles(verdicts: dict[tuple[int, int], str | None], candidate: str = "c") -> pl.DataFrame:
    """Rows from {(vote shown first, vote shown second): winner}."""
    rows = [
        {"prompt_id": f"p{candidate}", "candidate_id": candidate, "vote_a": a, "vote_b": b, "winner": winner,
         "parse_status": "ok" if winner else "no_match"}
        for (a, b), winner in verdicts.items()
    ]  # fmt: skip
    return frame(BATTLES, rows)


def tournament(drawn: tuple[int, list[str | None]], candidate: str = "c") -> pl.DataFrame:
    players, verdicts = drawn
    orders = [(a, b) for a in range(players) for b in range(players) if a != b]
    return battles(dict(zip(orders, verdicts, strict=True)), candidate)


def weights_of(data: pl.DataFrame, weights: PositionWeights) -> dict[tuple[int, int], float]:
    """B of the only candidate, without its zeros."""
    (matrix,) = battle_matrix(tabulate(data), weights)
    return {(int(m), int(n)): float(matrix[m, n]) for m, n in zip(*matrix.nonzero(), strict=True)}


def reference(won: np.ndarray) -> np.ndarray:
    """Ratings by weighted, unpenalised logistic regression without intercept, one row per ordered pair."""
    players = len(won)
    pairs = [(m, n) for m in range(players) for n in range(players) if won[m, n] > 0]
    design = np.array([np.eye(players)[m] - np.eye(players)[n] for m, n in pairs])
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-12, max_iter=10_000)
    # Each win also as a mirrored loss: the classifier needs both labels.
    labels = np.r_[np.ones(len(pairs)), np.zeros(len(pairs))]
    weight = np.tile([won[m, n] for m, n in pairs], 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(np.r_[design, -design], labels, sample_weight=weight)
    return model.coef_[0] - model.coef_[0].mean()


def test_position_weights_are_the_other_slots_share() -> None:
    data = battles({(0, 1): "a", (1, 0): "a", (0, 2): "a", (2, 0): "b", (1, 2): None})
    assert slot_weights(data) == (1 / 4, 3 / 4)
    # B_01 = w1; B_10 = w1; B_02 = w1 (first slot) + w2 (0 wins from the second slot).
    assert weights_of(data, "paper") == {(0, 1): 1 / 4, (1, 0): 1 / 4, (0, 2): 1 / 4 + 3 / 4}
    assert weights_of(data, "none") == {(0, 1): 1, (1, 0): 1, (0, 2): 2}


def matrix(verdicts: dict[tuple[int, int], str | None], weights: PositionWeights) -> dict[tuple[int, int], float]:
    """B by the paper's sentences: r = 1 where the first shown wins, -1 where the second does, 0 else."""
    r = {pair: {"a": 1, "b": -1, None: 0}[winner] for pair, winner in verdicts.items()}
    firsts, seconds = (list(r.values()).count(sign) for sign in (1, -1))
    w1, w2 = (seconds / (firsts + seconds), firsts / (firsts + seconds)) if firsts + seconds else (0.5, 0.5)
    if weights == "none":
        w1 = w2 = 1.0
    b = {}
    for m, n in r:
        forth, back = r[m, n], r[n, m]
        if weights == "agreement":
            tied = 0.5 * bool(forth or back)
            b[m, n] = 1.0 if (forth, back) == (1, -1) else 0.0 if (forth, back) == (-1, 1) else tied
        else:
            b[m, n] = w1 * (forth == 1) + w2 * (back == -1)
    return b


@settings(deadline=None)
@given(TOURNAMENT, st.sampled_from(WEIGHTS))
def test_the_battle_matrix_is_the_papers(drawn: tuple, weights: PositionWeights) -> None:
    players, verdicts = drawn
    orders = [(a, b) for a in range(players) for b in range(players) if a != b]
    expected = matrix(dict(zip(orders, verdicts, strict=True)), weights)
    found = weights_of(tournament(drawn), weights)
    assert {pair: found.get(pair, 0) for pair in orders} == pytest.approx(expected)
    rows = rate(tournament(drawn), weights, 0.01)
    assert rows["wins"].to_list() == pytest.approx(
        [sum(expected[m, n] for n in range(players) if n != m) for m in range(players)]
    )
    assert rows["losses"].to_list() == pytest.approx(
        [sum(expected[n, m] for n in range(players) if n != m) for m in range(players)]
    )


def test_position_weights_are_of_the_iteration_not_of_the_candidate() -> None:
    data = pl.concat([battles({(0, 1): "a", (1, 0): "a"}, "c"), battles({(0, 1): "b", (1, 0): "b"}, "d")])
    assert slot_weights(data) == (0.5, 0.5)


def test_agreement_needs_both_orders() -> None:
    data = battles({(0, 1): "a", (1, 0): "b", (0, 2): "a", (2, 0): "a", (1, 2): "a", (2, 1): None})
    expected = {(0, 1): 1, (0, 2): 0.5, (2, 0): 0.5, (1, 2): 0.5, (2, 1): 0.5}
    assert weights_of(data, "agreement") == expected


def test_flip_rate_counts_pairs_that_parsed_twice() -> None:
    data = battles({(0, 1): "a", (1, 0): "b", (0, 2): "a", (2, 0): "a", (1, 2): "a", (2, 1): None})
    assert flip_rate(data) == 1 / 2
    assert flip_rate(battles({(0, 1): "a"})) is None


def test_a_verdict_is_booked_to_its_own_pair_when_others_are_missing() -> None:
    """D6: verdicts were matched with pairs from the start, whatever was skipped."""
    ratings = rate(battles({(0, 2): "b", (2, 0): "a", (1, 2): "b", (2, 1): "a"}), "none", 0.01)
    assert ratings["wins"].to_list() == [0, 0, 4]
    assert ratings["losses"].to_list() == [2, 2, 0]
    assert ratings["battles"].to_list() == [2, 2, 4]
    assert ratings["rating"].arg_max() == 2


@settings(deadline=None)
@given(st.floats(0, 20), st.floats(0, 20), st.floats(1e-6, 10))
def test_two_players_have_the_closed_form(first: float, second: float, prior: float) -> None:
    won = np.array([[[0, first], [second, 0]]])
    difference = np.log((first + prior / 2) / (second + prior / 2))
    assert bradley_terry(won, prior)[0] == pytest.approx([difference / 2, -difference / 2], abs=1e-8)


def test_a_tournament_of_known_strengths_is_recovered() -> None:
    strength = np.array([1.5, 0.2, -0.4, -1.3])
    won = 1 / (1 + np.exp(strength[None, :] - strength[:, None])) * 10
    assert bradley_terry(won[None], 1e-12)[0] == pytest.approx(strength, abs=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_parity_with_logistic_regression(players: int, seed: int) -> None:
    # Every player beats every other at times, so the unpenalised maximum exists.
    won = np.random.default_rng(seed).uniform(0.2, 4, (players, players)) * (1 - np.eye(players))
    assert bradley_terry(won[None], 1e-12)[0] == pytest.approx(reference(won), abs=1e-4)


@settings(max_examples=15, deadline=None)
@given(TOURNAMENT, st.sampled_from(WEIGHTS), st.sampled_from([0.1, 1.0]))
def test_parity_with_logistic_regression_on_battles_with_the_prior_as_ties(
    drawn: tuple, weights: PositionWeights, prior: float
) -> None:
    players = drawn[0]
    won = prior / 2 * (1 - np.eye(players))
    for (winner, loser), weight in weights_of(tournament(drawn), weights).items():
        won[winner, loser] += weight
    rating = rate(tournament(drawn), weights, prior)["rating"].to_numpy()
    assert (rating - MEAN) / SCALE == pytest.approx(reference(won), abs=1e-4)


def test_one_sided_battles_of_separate_groups_have_finite_ratings_in_order() -> None:
    # 0 beat 1 and 2 beat 3, always; nobody of the one group met anybody of the other.
    ratings = rate(battles({(0, 1): "a", (1, 0): "b", (2, 3): "a", (3, 2): "b"}), "paper", 0.01)["rating"].to_list()
    assert np.isfinite(ratings).all()
    assert ratings[0] == pytest.approx(ratings[2], abs=1e-6)
    assert ratings[1] == pytest.approx(ratings[3], abs=1e-6)
    assert ratings[0] > ratings[1]


def test_a_cycle_is_a_tie() -> None:
    cycle = {(0, 1): "a", (1, 0): "b", (1, 2): "a", (2, 1): "b", (2, 0): "a", (0, 2): "b"}
    assert rate(battles(cycle), "none", 0.01)["rating"].to_list() == pytest.approx([MEAN] * 3, abs=1e-9)


def test_a_genuine_tie_in_the_middle_is_an_exact_one() -> None:
    """D30: rounding made a winner of it."""
    # 0 beats all, 3 loses to all, 1 and 2 agree with nobody in order.
    verdicts = {(1, 2): "a", (2, 1): "a"}
    for m, n in [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]:
        verdicts |= {(m, n): "a", (n, m): "b"}
    for weights in WEIGHTS:
        ratings = rate(battles(verdicts), weights, 0.01)["rating"].to_list()
        assert abs(ratings[1] - ratings[2]) < RATING_TOLERANCE
        assert ratings[0] > ratings[1] > ratings[3]


def test_no_parsed_verdict_leaves_everybody_at_the_mean() -> None:
    ratings = rate(battles({(0, 1): None, (1, 0): None}), "paper", 0.01)
    assert ratings.select("rating", "wins", "battles").rows() == [(MEAN, 0.0, 0)] * 2


@pytest.mark.parametrize("prior", [1e-9, 0.01, 1.0])
def test_separable_battles_converge_to_a_stationary_point(prior: float) -> None:
    players = 11
    won = np.triu(np.full((players, players), 2.0), 1)
    strength = bradley_terry(won[None], prior)[0]
    assert (np.diff(strength) < 0).all()
    smoothed = won + prior / 2 * (1 - np.eye(players))
    lost = 1 / (1 + np.exp(strength[:, None] - strength[None, :]))
    flow = smoothed * lost
    assert flow.sum(axis=1) == pytest.approx(flow.sum(axis=0), rel=1e-6)


def test_batches_of_many_sizes_equal_single_fits() -> None:
    rng = np.random.default_rng(0)
    won = rng.uniform(0, 3, (50, 5, 5)) * (1 - np.eye(5))
    together = bradley_terry(won, 0.01)
    alone = np.stack([bradley_terry(one[None], 0.01)[0] for one in won])
    assert together == pytest.approx(alone, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(TOURNAMENT, TOURNAMENT, st.sampled_from(WEIGHTS), st.randoms())
def test_row_order_does_not_matter(one: tuple, two: tuple, weights: PositionWeights, random: Random) -> None:
    data = pl.concat([tournament(one, "c"), tournament(two, "d")])
    order = list(range(data.height))
    random.shuffle(order)
    assert rate(data[order], weights, 0.01).equals(rate(data, weights, 0.01))


@settings(max_examples=40, deadline=None)
@given(TOURNAMENT, st.sampled_from(WEIGHTS), st.randoms())
def test_relabelling_the_judgements_relabels_the_ratings(
    drawn: tuple, weights: PositionWeights, random: Random
) -> None:
    data = tournament(drawn)
    label = list(range(drawn[0]))
    random.shuffle(label)
    renamed = data.with_columns(pl.col("vote_a", "vote_b").replace_strict(dict(enumerate(label))))
    rating = rate(data, weights, 0.01)["rating"].to_list()
    relabelled = rate(renamed, weights, 0.01)["rating"].to_list()
    assert [relabelled[label[vote]] for vote in range(drawn[0])] == pytest.approx(rating, abs=1e-6)
    assert np.mean(rating) == pytest.approx(1000, abs=1e-6)


def test_ratings_have_the_elo_scale() -> None:
    # Two wins against none, and a third of a win each way from the prior: odds of seven to one.
    ratings = rate(battles({(0, 1): "a", (1, 0): "b"}), "none", 2 / 3)["rating"]
    assert ratings[0] - ratings[1] == pytest.approx(400 * np.log10(7))
    assert pytest.approx(400 / np.log(10)) == SCALE


def test_rate_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {
        (0, 1): "Winner: Judgement A",
        (1, 0): "Winner: [Judgment B].",
        (0, 2): "unsure",
        (2, 0): "Winner: Judgement A",
    }
    rows = [
        {"prompt_id": "p", "candidate_id": "c", "vote_a": a, "vote_b": b, "seed": 1, "text": text, "token_ids": [1],
         "tokens": 1, "finish_reason": "length" if (a, b) == (2, 0) else "stop"}
        for (a, b), text in texts.items()
    ]  # fmt: skip
    paths = {"battles": tmp_path / "b.parquet", "ratings": tmp_path / "r.parquet"}
    write(frame(VERDICTS, rows), tmp_path / "v.parquet", VERDICTS, {})
    stage.main(stage.Args(verdicts=[tmp_path / "v.parquet"], **paths))
    parsed = read(paths["battles"], BATTLES)
    assert parsed["winner"].to_list() == ["a", None, "b", None]
    assert parsed["parse_status"].to_list() == ["ok", "no_match", "ok", "length"]
    ratings = read(paths["ratings"], RATINGS)
    assert ratings["battles"].to_list() == [2, 2, 0]
    assert ratings["rating"].to_list()[0] > 1000 > ratings["rating"].to_list()[1]
    assert "2 of 4 verdicts parsed" in capsys.readouterr().err


def test_rate_stage_without_verdicts_writes_empty_tables(tmp_path: Path) -> None:
    paths = {"battles": tmp_path / "b.parquet", "ratings": tmp_path / "r.parquet"}
    stage.main(stage.Args(**paths))
    assert read(paths["battles"], BATTLES).is_empty()
    assert read(paths["ratings"], RATINGS).is_empty()
