"""Which candidates of a prompt pair in the pairs stage: by length, all of them, equal ones once, and no pair again."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages import tables
from tests.support.pairs_world import World, reasons


def scores_of(pairs: pl.DataFrame) -> list[tuple[float, float]]:
    return pairs.filter(pl.col("kind") == "actor").select("score_chosen", "score_rejected").rows()


def test_length_control_chooses_by_length_within_the_windows(world: World) -> None:
    world.prompt("p", {"score": 5.0, "tokens": 9}, {"score": 4.0, "tokens": 2}, {"score": 1.0, "tokens": 1},
                 {"score": 2.0, "tokens": 8})  # fmt: skip
    scores = {
        rho: world.run(length_control=rho)[0].select("score_chosen", "score_rejected").row(0) for rho in (0, 0.25)
    }
    assert scores == {0: (5.0, 1.0), 0.25: (4.0, 2.0)}


def test_windows_that_overlap_never_train_against_the_scores(world: World) -> None:
    key = world.prompt("p", {"score": 5.0, "tokens": 9}, {"score": 1.0, "tokens": 1})
    other = world.prompt("q", {"score": 1.0, "tokens": 9}, {"score": 5.0, "tokens": 1})
    pairs, ledger = world.run(length_control=1.0)
    assert reasons(ledger, "actor") == {key: "margin"}
    assert pairs["prompt_id"].to_list() == [other]


def test_all_pairs_of_a_prompt_come_widest_first(world: World) -> None:
    """D33: there was one pair per prompt at most."""
    key = world.prompt("p", {"score": 1.0}, {"score": 4.0}, {"score": 2.0})
    pairs, ledger = world.run(per_prompt="all")
    assert pairs["pair_id"].to_list() == [f"actor-1-{key}-{number}" for number in range(3)]
    assert scores_of(pairs) == [(4.0, 1.0), (4.0, 2.0), (2.0, 1.0)]
    assert ledger.is_empty()
    assert scores_of(world.run(per_prompt="all", min_margin=1.0)[0]) == [(4.0, 1.0), (4.0, 2.0)]


def test_no_low_score_is_chosen(world: World) -> None:
    world.prompt("p", {"score": 1.0}, {"score": 4.0}, {"score": 2.0}, {"score": 0.0})
    pairs, ledger = world.run(per_prompt="all", min_chosen_score=2.0)
    assert scores_of(pairs) == [(4.0, 0.0), (4.0, 1.0), (2.0, 0.0), (4.0, 2.0), (2.0, 1.0)]
    assert ledger["reason"].to_list() == ["low_score"]


def test_the_limit_per_prompt_counts_the_pairs_that_no_other_rule_drops(world: World) -> None:
    world.prompt("p", {"score": 1.0}, {"score": 4.0, "tokens": 9}, {"score": 2.0}, {"score": 3.0})
    pairs, ledger = world.run(per_prompt="all", max_pairs_per_prompt=2, max_chosen_tokens=8)
    assert scores_of(pairs)[0] == (3.0, 1.0)
    assert scores_of(pairs)[1] in ((3.0, 2.0), (2.0, 1.0))
    assert sorted(ledger["reason"]) == ["overlong", "overlong", "overlong", "surplus"]


def test_equal_candidates_count_once_with_their_mean_score(world: World) -> None:
    """Best and worst may be one text, sampled twice: the prompt lost its pair, or a text was set against itself."""
    twins = world.prompt("spaces", {"score": 5.0, "text": "yes"}, {"score": 1.0, "text": "yes\n"}, {"score": 2.0})
    spelled = world.prompt(
        "accents", {"score": 3.0}, {"score": 5.0, "text": "café"}, {"score": 4.0, "text": "cafe\u0301"}
    )
    alone = world.prompt("one text", {"score": 1.0, "text": "no"}, {"score": 5.0, "text": " no"})
    pairs, ledger = world.run()
    found = {row[0]: row[1:] for row in pairs.select("prompt_id", "score_chosen", "score_rejected").iter_rows()}
    assert found == {twins: (3.0, 2.0), spelled: (4.5, 3.0)}
    assert pairs.filter(prompt_id=twins)["chosen_candidate_id"].item() == f"{twins}-1-0"
    assert ledger.filter(kind="actor").select("prompt_id", "reason").rows() == [(alone, "identical")]


def test_a_prompt_without_any_pair_over_the_margin_has_one_reason(world: World) -> None:
    world.prompt("good", {"score": 1.0}, {"score": 5.0})
    close = world.prompt("close", {"score": 3.0}, {"score": 3.2}, {"score": 3.1})
    equal = world.prompt("equal", *[{"score": 3.0}] * 4)
    empty = world.prompt("empty")
    _, ledger = world.run(per_prompt="all", min_margin=0.5)
    assert reasons(ledger, "actor") == {close: "margin", equal: "tie", empty: "no_candidate"}
    assert ledger["pair"].to_list() == [0, 0, 0]


def test_a_budget_takes_the_widest_pair_of_every_prompt_before_any_second_one(world: World) -> None:
    for number in range(6):
        world.prompt(f"prompt {number}", {"score": 1.0}, {"score": 4.0}, {"score": 2.0})
    pairs, ledger = world.run(per_prompt="all", max_pairs=8)
    assert pairs["pair_id"].str.ends_with("-0").sum() == 6
    assert pairs["pair_id"].str.ends_with("-1").sum() == 2
    assert ledger["reason"].to_list() == ["budget"] * 10


@pytest.mark.parametrize("per_prompt", ["best_worst", "all"])
def test_verified_scores_pair_and_the_draw_decides_their_ties(world: World, per_prompt: str) -> None:
    checked = {"status": "verified"}
    world.prompt("p", *[{"score": 5.0, **checked}] * 4, {"score": 0.0, **checked}, {"score": 5.0, **checked})
    best = {world.run(per_prompt=per_prompt, seed=seed)[0]["chosen_candidate_id"].to_list()[0] for seed in range(6)}
    assert len(best) > 1
    world.rows[tables.SCORES.name][2] |= {"variance": 0.5, "valid_votes": 3, "status": "ok"}
    voted = world.rows[tables.SCORES.name][2]["candidate_id"]
    assert {world.run(seed=seed)[0]["chosen_candidate_id"].item() for seed in range(3)} == {voted}


def earlier_run(world: World, **settings: Any) -> Path:
    """The pairs of a first iteration, kept beside those of the next one."""
    world.run(**settings)
    return (world.folder / "pairs.parquet").rename(world.folder / "earlier.parquet")


def test_a_pair_of_an_earlier_iteration_is_not_trained_on_again(world: World) -> None:
    key = world.prompt("p", {"score": 1.0, "text": "bad"}, {"score": 4.0, "text": "good"})
    world.judged(key, {"score": 1, "rating": 1100.0}, {"score": 2, "rating": 900.0})
    earlier = earlier_run(world, judge_share=0.5)
    world.prompt("new", {"score": 1.0, "text": "bad"}, {"score": 4.0, "text": "good"})
    pairs, ledger = world.run(previous=[earlier], iteration=2, judge_share=0.5)
    assert key not in pairs["prompt_id"]
    assert pairs.height == 1
    repeated = ledger.filter(pl.col("reason") == "repeated")
    assert repeated["detail"].to_list() == [f"the same as {kind}-1-{key}-0" for kind in ("actor", "judge")]
    again, _ = world.run(previous=[earlier], iteration=2, judge_share=0.5, repeat=True)
    assert sorted(again["pair_id"]) == sorted([*pairs["pair_id"], f"actor-2-{key}-0", f"judge-2-{key}-0"])


def test_the_other_order_and_other_texts_are_no_repetition(world: World) -> None:
    world.prompt("p", {"score": 1.0, "text": "bad"}, {"score": 4.0, "text": "good"})
    world.prompt("q", {"score": 1.0, "text": "one"}, {"score": 4.0, "text": "two"})
    earlier = earlier_run(world)
    first, second, third, _ = (row for row in world.rows[tables.SCORES.name])
    first["score"], second["score"] = 4.0, 1.0
    changed = next(row for row in world.rows[tables.CANDIDATES.name] if row["candidate_id"] == third["candidate_id"])
    changed["text"] = "three"
    pairs, ledger = world.run(previous=[earlier], iteration=2)
    assert pairs.height == 2
    assert ledger.is_empty()


def test_a_repeated_pair_does_not_use_up_the_limit_per_prompt(world: World) -> None:
    key = world.prompt("p", {"score": 1.0}, {"score": 4.0}, {"score": 2.0})
    earlier = earlier_run(world)
    pairs, ledger = world.run(previous=[earlier], iteration=2, per_prompt="all", max_pairs_per_prompt=1)
    assert pairs["pair_id"].to_list() == [f"actor-2-{key}-1"]
    assert ledger["reason"].to_list() == ["repeated", "surplus"]


def test_schedules_give_each_iteration_its_own_rules(world: World) -> None:
    key = world.prompt("p", {"score": 5.0, "tokens": 9}, {"score": 4.0, "tokens": 2}, {"score": 1.0, "tokens": 1})
    world.judged(key, {"score": 2, "rating": 1100.0, "tokens": 7}, {"score": 4, "rating": 900.0})
    settings = {
        "length_control": [0.0, 0.32],
        "judge_share": [0.5, 0.5],
        "max_chosen_tokens": [9, 9],
        "max_chosen_judgement_tokens": [7, 6],
    }
    first, _ = world.run(iteration=1, **settings)
    assert (scores_of(first), "judge" in first["kind"]) == ([(5.0, 1.0)], True)
    second, ledger = world.run(iteration=2, **settings)
    assert (scores_of(second), reasons(ledger, "judge")) == ([(4.0, 1.0)], {key: "overlong"})
