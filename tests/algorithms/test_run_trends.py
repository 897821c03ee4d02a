"""Trends over the iterations, by hand."""

import math
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.algorithms import run_trends as trends
from stages.contracts.schema import Table, frame
from stages.tables import BATTLES, CANDIDATES, PAIRS, SCORES, TRAIN_METRICS, VOTES

Row = dict[str, Any]


def at(iteration: int, table: Table, rows: list[Row]) -> pl.DataFrame:
    return frame(table, rows).with_columns(iteration=pl.lit(iteration, pl.Int64))


def judged(iteration: int, prompts: dict[str, list[tuple[int, float | None]]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Candidates and scores of prompts whose candidates have these lengths and scores."""
    keys = [
        ({"prompt_id": prompt, "candidate_id": f"{prompt}-{number}"}, length, score)
        for prompt, answers in prompts.items()
        for number, (length, score) in enumerate(answers)
    ]
    candidates = [{**key, "tokens": length, "finish_reason": "stop"} for key, length, _ in keys]
    scores = [{**key, "score": score} for key, _, score in keys]
    return at(iteration, CANDIDATES, candidates), at(iteration, SCORES, scores)


def test_score_against_length_is_a_mean_of_the_prompts_correlations() -> None:
    """p: longer is better, whatever the amount: 1. q: the two longer ones swapped: 1 - 6 * 2 / (3 * 8) = 0.5. r and s
    have equal scores or lengths, t a single score: they say nothing."""
    prompts: dict[str, list[tuple[int, float | None]]] = {
        "p": [(10, 1.0), (99, 4.0), (11, 2.0)],
        "q": [(10, 1.0), (20, 4.0), (30, 3.5)],
        "r": [(10, 2.0), (20, 2.0)],
        "s": [(10, 2.0), (10, 5.0)],
        "t": [(10, 2.0), (20, None)],
    }
    candidates, scores = judged(1, prompts)
    assert trends.score_against_length(candidates, scores).rows() == [(1, pytest.approx(0.75))]
    later, later_scores = judged(2, {"p": [(10, 2.0), (20, 1.0)]})
    both = trends.score_against_length(pl.concat([later, candidates]), pl.concat([scores, later_scores]))
    assert both.rows() == [(1, pytest.approx(0.75)), (2, -1)]
    failed = later.with_columns(finish_reason=pl.lit("error"))
    assert trends.score_against_length(failed, later_scores).is_empty()


@given(st.lists(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), max_size=5), max_size=5), st.randoms())
def test_score_against_length_stays_in_range_and_ignores_the_order_of_rows(rows: Any, random: Any) -> None:
    prompts = {f"p{number}": [(length, float(score)) for length, score in part] for number, part in enumerate(rows)}
    candidates, scores = judged(1, prompts)
    found = trends.score_against_length(candidates, scores)
    assert all(-1 - 1e-9 <= value <= 1 + 1e-9 for value in found["value"])
    seed = random.randrange(99)
    shuffled = [part.sample(fraction=1, shuffle=True, seed=seed) for part in (candidates, scores)]
    assert trends.score_against_length(*shuffled)["value"].to_list() == pytest.approx(found["value"].to_list())


def pairs(iteration: int, rows: list[tuple[str, int, int, float | None, float | None]]) -> pl.DataFrame:
    """Kind, length of chosen and rejected, their scores."""
    made = at(iteration, PAIRS, [
        {"pair_id": str(number), "kind": kind, "score_chosen": chosen, "score_rejected": rejected}
        for number, (kind, _, _, chosen, rejected) in enumerate(rows)
    ])  # fmt: skip
    sides = (("chosen_tokens", 1), ("rejected_tokens", 2))
    lengths = [pl.Series(name, [row[i] for row in rows], dtype=pl.UInt32) for name, i in sides]
    return made.with_columns(lengths)


def test_gaps_are_means_over_the_actor_pairs() -> None:
    """Lengths 10 - 30 and 25 - 20: mean -7.5; scores 4 - 1 and 3 - 2.5: mean 1.75."""
    rows = [("actor", 10, 30, 4.0, 1.0), ("actor", 25, 20, 3.0, 2.5), ("judge", 90, 1, None, None)]
    made = pl.concat([pairs(1, rows), pairs(2, rows[2:]), pairs(3, rows[:1])])
    assert trends.length_gap(made).rows() == [(1, -7.5), (3, -20)]
    assert trends.score_gap(made).rows() == [(1, 1.75), (3, 3)]


def test_distinct_share_counts_a_text_of_a_prompt_once() -> None:
    """p: 2 of 4 texts, q: 1 of 1 beside one that failed: mean 0.75."""
    twins = [("p-0", None), ("p-1", "p-0"), ("p-2", None), ("p-3", "p-0"), ("q-0", None)]
    rows = [{"prompt_id": key[0], "candidate_id": key, "twin_of": twin, "finish_reason": "stop"} for key, twin in twins]
    failed = {"prompt_id": "q", "candidate_id": "q-1", "finish_reason": "error"}
    assert trends.distinct_share(at(1, CANDIDATES, [*rows, failed])).rows() == [(1, 0.75)]
    assert trends.distinct_share(at(2, CANDIDATES, [failed])).is_empty()


def test_the_longer_judgement_wins_where_lengths_differ() -> None:
    """Judgements 0, 1, 2 have 10, 20 and 20 tokens: the longer one won two of three; equal ones and no winner aside."""
    key = {"prompt_id": "p", "candidate_id": "c"}
    votes = [{**key, "vote": vote, "tokens": tokens} for vote, tokens in ((0, 10), (1, 20), (2, 20))]
    battles = [
        {**key, "vote_a": a, "vote_b": b, "winner": winner}
        for a, b, winner in ((0, 1, "b"), (1, 0, "a"), (0, 2, "a"), (1, 2, "a"), (2, 0, None))
    ]
    other = [{**row, "tokens": 30 - row["tokens"]} for row in votes]
    given_votes = pl.concat([at(1, VOTES, votes), at(2, VOTES, other)])
    found = trends.longer_wins(pl.concat([at(2, BATTLES, battles), at(1, BATTLES, battles)]), given_votes)
    assert found.rows() == [(1, pytest.approx(2 / 3)), (2, pytest.approx(1 / 3))]
    assert trends.longer_wins(at(1, BATTLES, battles[3:]), given_votes).is_empty()


def metrics(iteration: int, accuracies: list[float], **more: float) -> pl.DataFrame:
    rows: list[Row] = [
        {"step": step, "metric": "accuracy", "value": value} for step, value in enumerate(accuracies, start=1)
    ]
    return at(iteration, TRAIN_METRICS, [*rows, *({"step": 0, "metric": name, "value": more[name]} for name in more)])


def test_implicit_agreement_is_of_the_last_pass() -> None:
    """10 pairs in batches of 4: the last 3 of 6 steps; with 2 pairs the last step alone, with 99 all of them."""
    accuracies = [0.0, 0.5, 0.5, 0.75, 1.0, 0.5]
    parts = [metrics(number, accuracies, examples=pairs) for number, pairs in ((1, 10.0), (2, 2.0), (3, 99.0))]
    sizes = pl.DataFrame({"iteration": [3, 1, 2], "batch_size": [4, 4, 4]})
    found = trends.implicit_agreement(pl.concat(parts), sizes)
    assert found.rows() == [(1, 0.75), (2, 0.5), (3, pytest.approx(3.25 / 6))]


def test_held_out_agreement_is_what_was_measured_last() -> None:
    rows = [
        {"step": step, "metric": name, "value": value}
        for step, name, value in ((10, "validation/accuracy", 0.8), (0, "validation/accuracy", 0.4), (20, "loss", 9.0))
    ]
    assert trends.held_out_agreement(at(1, TRAIN_METRICS, rows)).rows() == [(1, 0.8)]
    assert trends.held_out_agreement(metrics(2, [1.0])).is_empty()


def test_all_trends_stand_together_and_those_of_nothing_are_missing() -> None:
    candidates, scores = judged(1, {"p": [(10, 2.0), (20, 3.0)]})
    nothing = [at(0, table, []) for table in (VOTES, BATTLES)]
    sizes = pl.DataFrame(schema={"iteration": pl.Int64, "batch_size": pl.Int64})
    found = trends.run_trends(candidates, nothing[0], scores, nothing[1], pairs(1, []), metrics(1, []), sizes)
    values = {trend: value for _, value, trend in found.rows()}
    assert found.columns == ["iteration", "value", "trend"]
    assert values == {"score_against_length": pytest.approx(1), "distinct_share": 1}
    assert all(math.isfinite(value) for value in values.values())
