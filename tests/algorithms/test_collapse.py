"""Signs of collapse, by hand."""

import polars as pl
import pytest

from stages.algorithms.collapse import collapse_signs
from stages.algorithms.statistics import Bounds
from stages.contracts.schema import frame
from stages.tables import BATTLES, SCORES, VOTES


def test_collapse_signs_by_hand() -> None:
    key = {"prompt_id": "p", "candidate_id": "c"}
    given_votes = [(0, 5.0), (1, 5.0), (2, 2.0), (3, None)]
    parsed = {"parse_status": "ok", "finish_reason": "stop", "tokens": 1}
    votes = [{**key, "vote": vote, "score": score, **parsed} for vote, score in given_votes]
    numbers = [("c", 4.0, 2.0), ("d", 1.0, 1.0), ("e", None, None)]
    scores = [{**key, "candidate_id": name, "score": score, "variance": value} for name, score, value in numbers]
    # (0, 1) flips with the order; judgement 0 has the higher score in (0, 2) and (2, 0), judgement 1 in (2, 1).
    wins = [(0, 1, "a"), (1, 0, "a"), (0, 2, "a"), (2, 0, "b"), (1, 2, None), (2, 1, "a")]
    battles = [{**key, "vote_a": a, "vote_b": b, "winner": winner, "parse_status": "ok"} for a, b, winner in wins]
    results = pl.DataFrame(
        {"prompt_id": list("pqrsp"), "kind": [*["actor"] * 4, "judge"], "outcome": ["tie", *["pair"] * 3, "tie"]}
    )
    one = pl.lit(1, pl.Int64).alias("iteration")
    frames = [frame(VOTES, votes), frame(SCORES, scores), results, frame(BATTLES, battles)]
    signs = collapse_signs(*[rows.with_columns(one) for rows in frames], Bounds(0, 5))
    assert dict(signs.select("sign", "value").iter_rows()) == pytest.approx(
        {
            "top score": 2 / 3,
            "ties": 1 / 4,
            "mean score": 2.5,
            "judge variance": 1.5,
            "first slot wins": 4 / 5,
            "order flips": 1 / 2,
            "higher score wins": 2 / 3,
        }
    )


def test_iterations_are_counted_apart_and_what_was_not_measured_has_no_sign() -> None:
    """A judge that says 4.9 where it said 5 has not stopped saying that all is well."""
    keys = [{"prompt_id": "p", "candidate_id": f"c{number}", "vote": 0, "tokens": 1} for number in range(4)]
    scores = {1: [5.0, 2.0, 4.4, None], 2: [4.9, 4.5, 5.0, 4.4]}
    votes = pl.concat(
        frame(VOTES, [{**key, "score": score} for key, score in zip(keys, given, strict=True)]).with_columns(
            iteration=pl.lit(iteration, pl.Int64)
        )
        for iteration, given in scores.items()
    )
    none = [frame(table, []).with_columns(iteration=pl.lit(0, pl.Int64)) for table in (SCORES, BATTLES)]
    results = pl.DataFrame(schema={"iteration": pl.Int64, "kind": pl.String, "outcome": pl.String})
    signs = collapse_signs(votes, none[0], results, none[1], Bounds(0, 5))
    assert signs.rows() == [(1, "top score", pytest.approx(1 / 3)), (2, "top score", 0.75)]
