"""What a run is warned of: the papers' collapsed runs are, their sound ones are not."""

import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.algorithms.collapse_warnings import RULES, CollapseWarning, collapse_warnings
from stages.algorithms.statistics import Bounds

SETTINGS = (Path(__file__).parents[2] / "config/README.md").read_text(encoding="utf-8")


def warned(
    signs: dict[str, float] | None = None,
    gaps: tuple[float, ...] = (),
    lengths: tuple[float, ...] = (),
    gained: list[dict[str, Any]] | None = None,
    scale: tuple[float, float] = (0, 5),
) -> list[CollapseWarning]:
    """Warnings of signs of iteration 2, score gaps of iterations from 1 on and lengths of models from 0 on."""
    given = pl.DataFrame(
        [(2, *sign) for sign in (signs or {}).items()],
        schema={"iteration": pl.Int64, "sign": pl.String, "value": pl.Float64}, orient="row",
    )  # fmt: skip
    trends = pl.DataFrame({"iteration": range(1, len(gaps) + 1), "value": gaps, "trend": "score_gap"},
                          schema={"iteration": pl.Int64, "value": pl.Float64, "trend": pl.String})  # fmt: skip
    summary = pl.DataFrame({"model": range(len(lengths)), "metric": "tokens", "value": lengths},
                           schema={"model": pl.Int64, "metric": pl.String, "value": pl.Float64})  # fmt: skip
    return collapse_warnings(given, trends, summary, gained or [], Bounds(*scale))


def lost(high: float | None, metric: str = "judge_accuracy") -> list[dict[str, Any]]:
    return [{"model": 3, "metric": metric, "value": -0.1, "low": -0.2, "high": high, "n": 9}]


@pytest.mark.parametrize(
    ("sound", "collapsed", "finding"),
    [
        # Meta-Rewarding's iterations 1 and 2.
        ({"signs": {"mean score": 4.1}}, {"signs": {"mean score": 4.7}}, "the mean score is at 94% of the scale"),
        (
            {"signs": {"higher score wins": 0.6304}},
            {"signs": {"higher score wins": 0.9768}},
            "the judgement with the higher score wins 98% of the verdicts",
        ),
        (
            {"signs": {"first slot wins": 0.4392}},
            {"signs": {"first slot wins": 0.6811}},
            "the judgement shown first wins 68% of the verdicts",
        ),
        (
            {"signs": {"first slot wins": 0.35}},
            {"signs": {"first slot wins": 0.3}},
            "the judgement shown first wins 30% of the verdicts",
        ),
        # Meta-Rewarding's four iterations with length control, Self-Rewarding's two without.
        (
            {"lengths": (1943, 1949, 2001, 2064, 2003)},
            {"lengths": (1092, 1552, 2552)},
            "held-out responses are 2.3 times as long as model 0's",
        ),
        (
            {"gaps": (0.9, 0.5)},
            {"gaps": (0.9, 0.1)},
            "chosen and rejected differ by 11% of the first iteration's score gap",
        ),
        (
            {"signs": {"top score": 0.5}},
            {"signs": {"top score": 0.6}},
            "60% of the votes are in the top tenth of the scale",
        ),
        ({"signs": {"ties": 0.5}}, {"signs": {"ties": 0.6}}, "60% of the prompts have equal scores only"),
        ({"gained": lost(-0.02)}, {"gained": lost(-0.031)}, "judge accuracy fell by at least 3.1%"),
    ],
)
def test_each_rule_has_a_limit(sound: Any, collapsed: Any, finding: str) -> None:
    assert warned(**sound) == []
    assert [warning.finding for warning in warned(**collapsed)][-1] == finding


def test_warnings_say_where_and_come_in_order() -> None:
    found = warned({"top score": 0.9, "ties": 0.9}, gaps=(2.0, 1.0, 0.5, 0.6), lengths=(10, 16, 10), gained=lost(-0.1))
    places = ["model 1", "iteration 2", "iteration 2", "iteration 3", "iteration 4", "model 3"]
    assert sorted(warning.place for warning in found) == sorted(places)
    assert [warning.place for warning in found][:3] == places[:3]
    assert {warning.advice for warning in found} <= {rule.advice for rule in RULES.values()}


def test_scores_count_on_their_own_scale() -> None:
    assert warned({"mean score": 8.9}, scale=(1, 10)) == []
    (warning,) = warned({"mean score": 9.5}, scale=(1, 10))
    assert warning.finding == "the mean score is at 94% of the scale"


def test_what_was_not_measured_warns_of_nothing() -> None:
    assert warned() == []
    assert warned(gained=[*lost(None), *lost(-0.5, "quality")]) == []
    assert warned(lengths=(0.0, 0.0)) == []
    assert warned({"judge variance": 0.0}) == []


def test_advice_names_settings_that_exist() -> None:
    named = {name for rule in RULES.values() for name in re.findall(r"\b[a-z_]+\.[a-z_.]+[a-z]\b", rule.advice)}
    assert len(named) >= 8
    assert [name for name in named if f"`{name}`" not in SETTINGS] == []
