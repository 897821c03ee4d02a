"""Verdicts in both orders become wins, ties and what could not be read."""

from typing import Any

import polars as pl
import pytest

from stages.algorithms.head_to_head import outcomes, win_rates
from stages.algorithms.statistics import SHARE, ratio_estimate
from stages.contracts.schema import frame
from stages.tables import COMPARISONS


def compared(prompt: str, sample: int, winners: tuple[str | None, str | None], longer: int = 0, **more: Any) -> Any:
    """Rows of one pair: who won where the model's answer was first, and where the other was."""
    row = {"prompt_id": prompt, "decoding": "sample", "sample": sample, "characters": 10 + longer}
    row |= {"other_characters": 10, **more}
    status = {None: "no_match"}
    return [
        {"parse_status": status.get(winner, "ok"), **row, "first": first, "winner": winner}
        for first, winner in zip(("model", "other"), winners, strict=True)
    ]


def table(*pairs: Any) -> pl.DataFrame:
    return frame(COMPARISONS, [row for pair in pairs for row in pair])


MIXED = table(
    compared("p", 0, ("model", "model"), 6),
    compared("p", 1, ("model", "other"), -2),
    compared("q", 0, ("other", "other"), 2),
    compared("q", 1, ("other", None), 50),
    compared("r", 0, (None, None), parse_status="alike"),
    compared("r", 1, ("other", "model"), -2),
)


def test_an_order_that_decides_is_a_tie_and_a_missing_verdict_no_outcome() -> None:
    assert outcomes(MIXED).select("prompt_id", "sample", "win", "difference").rows() == [
        ("p", 0, 1, 6), ("p", 1, 0.5, -2), ("q", 0, 0, 2), ("q", 1, None, 50), ("r", 0, 0.5, 0), ("r", 1, 0.5, -2),
    ]  # fmt: skip


def test_win_rates_by_hand() -> None:
    """Wins by prompt: 1.5 of 2, 0 of 1, 1 of 2."""
    found = {row["metric"]: row for row in win_rates(MIXED)}
    expected = ratio_estimate(*map(pl.Series.to_numpy, (pl.Series([1.5, 0, 1]), pl.Series([2, 1, 2]))), SHARE)
    assert found["win_rate"] == {"metric": "win_rate", **expected._asdict()}
    assert found["win_rate"]["value"] == 0.5
    assert found["tie_share"]["value"] == pytest.approx(3 / 5)
    assert found["unparsed"]["value"] == pytest.approx(1 / 6)
    assert found["longer_by"]["value"] == pytest.approx(54 / 6)
    assert {row["n"] for row in found.values()} == {3}
    assert 0 < found["win_rate_length_controlled"]["value"] < 1


def test_each_decoding_counts_by_itself() -> None:
    both = table(compared("p", 0, ("model", "model")), compared("p", 0, ("other", "other"), decoding="greedy"))
    found = {row["metric"]: row["value"] for row in win_rates(both)}
    assert (found["win_rate"], found["win_rate_greedy"]) == (1, 0)
    assert (found["win_rate_length_controlled"], found["win_rate_length_controlled_greedy"]) == (1, 0)


def test_without_any_verdict_only_that_is_told() -> None:
    found = {row["metric"]: row["value"] for row in win_rates(table(compared("p", 0, (None, None))))}
    assert found == {"unparsed": 1, "longer_by": 0}
    assert win_rates(frame(COMPARISONS, [])) == []
