"""Votes to scores, and what the meta-judge compares."""

import math
import statistics
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.algorithms.aggregation import aggregate, scores
from stages.algorithms.comparisons import candidate_to_compare, comparisons
from stages.config import ScoreSection
from stages.contracts.ids import Seeds
from stages.contracts.schema import frame
from stages.tables import SCORES, VOTES

SCORED = st.lists(st.one_of(st.none(), st.sampled_from([0.0, 1.0, 2.5, 4.0, 4.1, 5.0])), min_size=1, max_size=8)


def votes(candidates: dict[str, list[float | None]], prompt: str = "p") -> pl.DataFrame:
    rows = [
        {"prompt_id": prompt, "candidate_id": name, "vote": vote, "score": value, "finish_reason": "stop", "tokens": 10,
         "parse_status": "no_match" if value is None else "ok", "logprob": None}
        for name, values in candidates.items()
        for vote, value in enumerate(values)
    ]  # fmt: skip
    return frame(VOTES, rows)


@given(SCORED, st.sampled_from(["mean", "median"]), st.integers(1, 4))
def test_aggregate_is_the_statistic_of_the_valid_votes(values: list[float | None], how: str, min_votes: int) -> None:
    valid = [value for value in values if value is not None]
    row = aggregate(votes({"c": values}), how, min_votes).row(0, named=True)  # type: ignore[arg-type]
    assert (row["votes"], row["valid_votes"]) == (len(values), len(valid))
    assert row["status"] == ("few_votes" if len(valid) < min_votes else "ok")
    if len(valid) < min_votes:
        assert row["score"] is None
        assert row["variance"] is None
    else:
        assert row["score"] == pytest.approx(getattr(statistics, how)(valid), abs=1e-9)
        assert row["variance"] == pytest.approx(statistics.pvariance(valid), abs=1e-9)


JUDGED = st.tuples(
    st.one_of(st.none(), st.sampled_from([0.0, 1.0, 2.5, 5.0])),
    st.one_of(st.floats(-2000, 0), st.sampled_from([None, -math.inf, math.nan])),
    st.integers(0, 400),
)


def judged(candidates: list[list[tuple[float | None, float | None, int]]]) -> pl.DataFrame:
    data = votes({f"c{index}": [row[0] for row in rows] for index, rows in enumerate(candidates)})
    rows = [row for rows in candidates for row in rows]
    return data.with_columns(
        pl.Series("logprob", [row[1] for row in rows], dtype=pl.Float64),
        pl.Series("tokens", [row[2] for row in rows], dtype=pl.Int64),
    )


@given(st.lists(st.lists(JUDGED, min_size=1, max_size=6), min_size=1, max_size=4))
def test_the_expected_score_weighs_valid_votes_by_their_likelihood_per_token(
    candidates: list[list[tuple[float | None, float | None, int]]],
) -> None:
    scores = aggregate(judged(candidates), "expected", 1)
    for name, rows in enumerate(candidates):
        valid = [row for row in rows if row[0] is not None]
        known = all(logprob is not None and math.isfinite(logprob) and tokens for _, logprob, tokens in valid)
        rates = [logprob / tokens if known else 0.0 for _, logprob, tokens in valid]  # type: ignore[operator]
        weights = [math.exp(rate - max(rates)) for rate in rates]
        found = scores.row(by_predicate=pl.col("candidate_id") == f"c{name}", named=True)
        if not valid:
            assert found["score"] is None
            continue
        expected = sum(weight * row[0] for weight, row in zip(weights, valid, strict=True)) / sum(weights)  # type: ignore[operator]
        assert found["score"] == pytest.approx(expected, abs=1e-8)
        assert found["variance"] == pytest.approx(statistics.pvariance([row[0] for row in valid]), abs=1e-8)  # type: ignore[type-var]


def test_the_expected_score_of_two_votes_is_worked_out_by_hand() -> None:
    # Likelihoods per token 3/4 and 1/4, whatever the lengths: 3/4 * 4 + 1/4 * 2.
    data = judged([[(4.0, 10 * math.log(0.75), 10), (2.0, 3 * math.log(0.25), 3)]])
    assert aggregate(data, "expected", 1)["score"].to_list() == [3.5]


def test_a_candidate_whose_judgements_are_all_unlikely_still_has_an_expected_score() -> None:
    data = judged([[(4.0, -2000.0, 1), (2.0, -2000.0, 1)], [(1.0, -0.1, 1)]])
    assert aggregate(data, "expected", 1)["score"].to_list() == [3.0, 1.0]


@given(st.lists(st.lists(JUDGED, min_size=1, max_size=6), min_size=1, max_size=4), st.randoms())
def test_aggregate_does_not_depend_on_row_order(
    candidates: list[list[tuple[float | None, float | None, int]]], random: object
) -> None:
    data = judged(candidates)
    order = list(range(data.height))
    random.shuffle(order)  # type: ignore[attr-defined]
    for how in ("mean", "median", "expected"):
        assert aggregate(data[order], how, 1).equals(aggregate(data, how, 1))  # type: ignore[arg-type]


def test_aggregate_returns_the_columns_of_scores() -> None:
    assert set(aggregate(votes({"a": [1]}), "mean", 1).columns) == set(SCORES.columns)
    assert aggregate(votes({}), "expected", 1).is_empty()


def test_equal_means_of_other_summation_orders_are_equal() -> None:
    scores = aggregate(votes({"a": [0.1, 0.2, 0.3], "b": [0.3, 0.2, 0.1]}), "mean", 1)
    assert scores["score"].n_unique() == 1


def test_the_compared_candidate_has_the_highest_variance() -> None:
    data = pl.concat(
        [
            votes({"p-low": [2, 3, 3], "p-high": [0, 5, 2], "p-alone": [5, None, None]}, "p"),
            votes({"q-flat": [3, 3, 3], "q-alone": [1, None, None]}, "q"),
        ]
    )
    chosen = candidate_to_compare(aggregate(data, "mean", 1), seeds=Seeds(0, 1))
    assert chosen.rows() == [("p", "p-high")]


def test_ties_in_variance_are_drawn() -> None:
    scores = aggregate(votes({name: [1, 2] for name in "abcd"}), "mean", 1)
    drawn = {candidate_to_compare(scores, Seeds(seed, 1))["candidate_id"].item() for seed in range(40)}
    assert drawn == set("abcd")
    assert candidate_to_compare(scores.reverse(), Seeds(5, 1)).equals(candidate_to_compare(scores, Seeds(5, 1)))


@given(SCORED, st.one_of(st.none(), st.integers(1, 6)), st.integers(0, 9))
def test_comparisons_hold_pairs_of_valid_votes_in_both_orders(
    values: list[float | None], limit: int | None, seed: int
) -> None:
    data = votes({"c": values})
    compared = set(comparisons(data, limit, Seeds(seed, 1)).select("vote_a", "vote_b").rows())
    valid = [vote for vote, value in enumerate(values) if value is not None]
    every = {(a, b) for a in valid for b in valid if a != b}
    assert compared <= every
    assert {(b, a) for a, b in compared} == compared
    assert len(compared) == min(len(every), 2 * limit if limit else len(every))
    assert comparisons(data.reverse(), limit, Seeds(seed, 1)).equals(comparisons(data, limit, Seeds(seed, 1)))


def test_the_cap_holds_per_candidate_and_is_drawn() -> None:
    data = votes({"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]})
    assert comparisons(data, 2, Seeds(0, 1)).group_by("candidate_id").len()["len"].to_list() == [4, 4]
    assert len({tuple(comparisons(data, 2, Seeds(seed, 1)).rows()) for seed in range(10)}) > 1


PASSED = {"none": 0.0, "half": 0.5, "all": 1.0, "unread": 1.0, "unjudged": 0.5}
BOTH: dict[str, list[float | None]] = {"none": [5.0], "half": [4.0], "all": [1.0], "unread": [None], "plain": [2.0]}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, {"none": 0.0, "half": 2.5, "all": 5.0, "unread": 5.0, "unjudged": 2.5}),
        ({"combine": "judge"}, {"none": 5.0, "half": 4.0, "all": 1.0, "unread": None, "unjudged": None}),
        # What fails a check stays in the lower half, however much it is liked; a share needs no vote.
        ({"combine": "gate"}, {"none": 0.0, "half": 1.25, "all": 3.0, "unread": None, "unjudged": 1.25}),
        ({"combine": "sum"}, {"none": 2.5, "half": 3.25, "all": 3.0, "unread": None, "unjudged": None}),
        (
            {"combine": "sum", "judge_weight": 0.25},
            {"none": 1.25, "half": 2.875, "all": 4.0, "unread": None, "unjudged": None},
        ),
    ],
)
def test_checks_and_votes_are_combined_as_configured(settings: dict[str, Any], expected: dict[str, float]) -> None:
    passed = pl.DataFrame({"prompt_id": "p", "candidate_id": list(PASSED), "passed": list(PASSED.values())})
    nobody = votes({}).select(SCORES.key)
    found = scores(votes(BOTH), passed, nobody, ScoreSection(**settings))
    by_name = {row["candidate_id"]: row for row in found.iter_rows(named=True)}
    assert by_name.pop("plain")["score"] == 2.0, "one without checks is the judge's alone"
    assert {name: row["score"] for name, row in by_name.items()} == expected
    scored = "ok" if settings.get("combine") == "judge" else "verified"
    statuses = {name: "few_votes" if score is None else scored for name, score in expected.items()}
    assert {name: row["status"] for name, row in by_name.items()} == statuses


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 0.75, 1.0]), st.floats(-2, 7)), min_size=2, max_size=6))
def test_no_vote_lifts_what_fails_over_what_passes(candidates: list[tuple[float, float]]) -> None:
    names = [f"c{number}" for number in range(len(candidates))]
    passed = pl.DataFrame({"prompt_id": "p", "candidate_id": names, "passed": [share for share, _ in candidates]})
    liked = votes({name: [score] for name, (_, score) in zip(names, candidates, strict=True)})
    settings = ScoreSection(combine="gate", low=-2, high=7)
    found = scores(liked, passed, votes({}).select(SCORES.key), settings).sort("candidate_id")["score"].to_list()
    assert all(-2 <= score <= 7 for score in found)
    for (share, score), value in zip(candidates, found, strict=True):
        for (other_share, other_score), other in zip(candidates, found, strict=True):
            if share < other_share:
                assert value <= other
            if share == other_share == 1 and score < other_score - 1e-6:
                assert value < other
