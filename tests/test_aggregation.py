"""Votes to scores, the gates of the score stage, and what the meta-judge compares."""

import statistics
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import score
from stages.algorithms.aggregation import aggregate
from stages.algorithms.comparisons import candidate_to_compare, comparisons
from stages.artifacts import frame, read, write
from stages.errors import StageError
from stages.tables import JUDGEMENTS, SCORES, VOTES

SCORED = st.lists(st.one_of(st.none(), st.sampled_from([0.0, 1.0, 2.5, 4.0, 4.1, 5.0])), min_size=1, max_size=8)


def votes(candidates: dict[str, list[float | None]], prompt: str = "p") -> pl.DataFrame:
    rows = [
        {"prompt_id": prompt, "candidate_id": name, "vote": vote, "score": value,
         "parse_status": "no_match" if value is None else "ok"}
        for name, values in candidates.items()
        for vote, value in enumerate(values)
    ]  # fmt: skip
    return frame(VOTES, rows)


def judgements(texts: dict[str, list[str]], finish_reason: str = "stop") -> pl.DataFrame:
    rows = [
        {"prompt_id": "p", "candidate_id": name, "vote": vote, "seed": 1, "text": text, "token_ids": [1],
         "finish_reason": finish_reason}
        for name, values in texts.items()
        for vote, text in enumerate(values)
    ]  # fmt: skip
    return frame(JUDGEMENTS, rows)


def run_score(folder: Path, data: pl.DataFrame, **settings: object) -> tuple[pl.DataFrame, pl.DataFrame]:
    write(data, folder / "judgements.parquet", JUDGEMENTS, {})
    paths = {
        "judgements": [folder / "judgements.parquet"],
        "votes": folder / "v.parquet",
        "scores": folder / "s.parquet",
    }
    score.main(score.Args.model_validate({**paths, **settings}))
    return read(paths["votes"], VOTES), read(paths["scores"], SCORES)


@settings(deadline=None)
@given(SCORED, st.sampled_from(["mean", "median"]), st.integers(1, 4))
def test_aggregate_is_the_statistic_of_the_valid_votes(values: list[float | None], how: str, min_votes: int) -> None:
    valid = [value for value in values if value is not None]
    row = aggregate(votes({"c": values}), how, min_votes).row(0, named=True)  # type: ignore[arg-type]
    assert (row["votes"], row["valid_votes"]) == (len(values), len(valid))
    if len(valid) < min_votes:
        assert row["score"] is None
        assert row["variance"] is None
    else:
        assert row["score"] == pytest.approx(getattr(statistics, how)(valid), abs=1e-9)
        assert row["variance"] == pytest.approx(statistics.pvariance(valid), abs=1e-9)


@settings(deadline=None)
@given(st.lists(SCORED, min_size=1, max_size=4), st.randoms())
def test_aggregate_does_not_depend_on_row_order(values: list[list[float | None]], random: object) -> None:
    data = votes({f"c{index}": column for index, column in enumerate(values)})
    order = list(range(data.height))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert aggregate(data[order], "mean", 1).equals(aggregate(data, "mean", 1))


def test_equal_means_of_other_summation_orders_are_equal() -> None:
    scores = aggregate(votes({"a": [0.1, 0.2, 0.3], "b": [0.3, 0.2, 0.1]}), "mean", 1)
    assert scores["score"].n_unique() == 1


def test_score_stage_writes_votes_and_scores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = {"a": ["Score: 4", "Score: 3", "none"], "b": ["Score: 1", "Score: 9", "?"]}
    parsed, scores = run_score(tmp_path, judgements(texts), min_votes=2)
    assert parsed["parse_status"].to_list() == ["ok", "ok", "no_match", "ok", "out_of_range", "no_match"]
    assert parsed["span"].to_list()[0] == [0, len("Score: 4")]
    assert scores.drop("prompt_id").rows() == [("a", 3.5, 0.25, 2, 3), ("b", None, None, 1, 3)]
    assert "6 judgements (ok 3, no_match 2, out_of_range 1)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("texts", "finish_reason", "settings", "message"),
    [
        ({"a": ["Score: 1", "-", "-"]}, "stop", {}, "only 1 of 3 judgements parsed .*no_match 2"),
        ({"a": ["Score: 1"], "b": ["Score: 2"]}, "length", {}, "0 of 2 judgements .*length 2.*max_tokens"),
        ({"a": ["Score: 3"], "b": ["Score: 3.0"]}, "stop", {}, "all 2 scored candidates have the score 3"),
        ({"a": ["Score: 3"], "b": ["Score: 4"]}, "stop", {"min_votes": 2}, "no candidate has the 2 valid votes"),
        ({}, "stop", {}, "no rows"),
    ],
)
def test_gates(tmp_path: Path, texts: dict[str, list[str]], finish_reason: str, settings: dict, message: str) -> None:
    with pytest.raises(StageError, match=message):
        run_score(tmp_path, judgements(texts, finish_reason), **settings)
    assert not (tmp_path / "v.parquet").exists()


def test_the_compared_candidate_has_the_highest_variance() -> None:
    data = pl.concat(
        [
            votes({"p-low": [2, 3, 3], "p-high": [0, 5, 2], "p-alone": [5, None, None]}, "p"),
            votes({"q-flat": [3, 3, 3], "q-alone": [1, None, None]}, "q"),
        ]
    )
    chosen = candidate_to_compare(aggregate(data, "mean", 1), seed=0, iteration=1)
    assert chosen.rows() == [("p", "p-high")]


def test_ties_in_variance_are_drawn() -> None:
    scores = aggregate(votes({name: [1, 2] for name in "abcd"}), "mean", 1)
    drawn = {candidate_to_compare(scores, seed, 1)["candidate_id"].item() for seed in range(40)}
    assert drawn == set("abcd")
    assert candidate_to_compare(scores.reverse(), 5, 1).equals(candidate_to_compare(scores, 5, 1))


@settings(deadline=None)
@given(SCORED, st.one_of(st.none(), st.integers(1, 6)), st.integers(0, 9))
def test_comparisons_hold_pairs_of_valid_votes_in_both_orders(
    values: list[float | None], limit: int | None, seed: int
) -> None:
    data = votes({"c": values})
    compared = set(comparisons(data, limit, seed, 1).select("vote_a", "vote_b").rows())
    valid = [vote for vote, value in enumerate(values) if value is not None]
    every = {(a, b) for a in valid for b in valid if a != b}
    assert compared <= every
    assert {(b, a) for a, b in compared} == compared
    assert len(compared) == min(len(every), 2 * limit if limit else len(every))
    assert comparisons(data.reverse(), limit, seed, 1).equals(comparisons(data, limit, seed, 1))


def test_the_cap_holds_per_candidate_and_is_drawn() -> None:
    data = votes({"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]})
    assert comparisons(data, 2, 0, 1).group_by("candidate_id").len()["len"].to_list() == [4, 4]
    assert len({tuple(comparisons(data, 2, seed, 1).rows()) for seed in range(10)}) > 1
