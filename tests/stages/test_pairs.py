"""The pairs stage from files to files: what a pair carries, every reason, the mix, and what is refused."""

import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from pydantic import ValidationError

from stages import tables
from stages.contracts.artifacts import provenance, read
from stages.contracts.errors import StageError
from stages.contracts.ids import candidate_id
from stages.contracts.schema import Table
from tests.support.pairs_world import World, populate, reasons


def test_an_actor_pair_carries_what_training_needs(world: World) -> None:
    key = world.prompt("hello", {"score": 2.0, "tokens": 3}, {"score": 4.5, "tokens": 5}, {"score": 3.0})
    pairs, ledger = world.run()
    assert ledger.is_empty()
    assert pairs.row(0, named=True) == {
        "pair_id": f"actor-1-{key}-0",
        "kind": "actor",
        "prompt_id": key,
        "prompt": [{"role": "user", "content": "hello"}],
        "chosen": [{"role": "assistant", "content": "hello 1"}],
        "rejected": [{"role": "assistant", "content": "hello 0"}],
        "score_chosen": 4.5,
        "score_rejected": 2.0,
        "prompt_token_ids": [7, 5],
        "chosen_token_ids": [101] * 5,
        "rejected_token_ids": [100] * 3,
        "chosen_candidate_id": candidate_id(key, 1, 1),
        "rejected_candidate_id": candidate_id(key, 1, 0),
        "chosen_vote": None,
        "rejected_vote": None,
    }


def test_a_judge_pair_has_no_scores_and_the_judges_prompt(world: World) -> None:
    key = world.prompt("hello", {"score": 2.0}, {"score": 4.0})
    candidate = world.judged(
        key, {"score": 1, "rating": 1000.0}, {"score": 2, "rating": 1200.0}, {"score": 5, "rating": 800.0}
    )
    pairs, _ = world.run(judge_share=0.5)
    row = pairs.filter(pl.col("kind") == "judge").row(0, named=True)
    assert row["pair_id"] == f"judge-1-{key}-0"
    assert (row["score_chosen"], row["score_rejected"]) == (None, None)
    assert (row["chosen_vote"], row["rejected_vote"]) == (1, 2)
    assert (row["chosen_candidate_id"], row["rejected_candidate_id"]) == (candidate, candidate)
    assert row["prompt"] == [{"role": "user", "content": f"judge {candidate}"}]
    assert row["chosen"] == [{"role": "assistant", "content": "Because 1. Score: 2"}]
    assert (row["prompt_token_ids"], row["rejected_token_ids"]) == ([8, 8], [202] * 6)


def test_every_actor_reason(world: World) -> None:
    good = {"score": 1.0}, {"score": 5.0}
    expected = {
        world.prompt("nothing sampled"): "no_candidate",
        world.prompt("one sampled", {"score": 3.0}): "no_candidate",
        world.prompt("cut", {"score": 3.0}, {"score": 5.0, "finish_reason": "length"}): "truncated",
        world.prompt("no room", {"score": 3.0}, {"finish_reason": "error"}): "failed",
        world.prompt("too long a question", {"score": 3.0}, {"status": "not judged"}): "not_judged",
        world.prompt("mere thoughts", {"score": 3.0}, {"status": "not judged", "text": "<think>Hm"}): "thoughts",
        world.prompt("no votes", {"score": 3.0}, {"score": None}): "unparsed",
        world.prompt("seen in part", {"score": 3.0}, {"score": None, "status": "shortened"}): "shortened",
        world.prompt("equal", {"score": 3.0}, {"score": 3.0}): "tie",
        world.prompt("same", {"score": 3.0, "text": "yes"}, {"score": 4.0, "text": "yes"}): "identical",
        world.prompt("close", {"score": 3.1}, {"score": 3.4}): "margin",
        world.prompt("bad", {"score": 0.0}, {"score": 0.9}): "low_score",
        world.prompt("long", {"score": 1.0}, {"score": 5.0, "tokens": 9}): "overlong",
        world.prompt("padded", {"score": 1.0, "tokens": 3}, {"score": 5.0, "tokens": 7}): "length_ratio",
        world.prompt("curt", {"score": 1.0, "tokens": 7}, {"score": 5.0, "tokens": 3}): "length_ratio",
    }
    kept = world.prompt("kept", *good)
    limits = {"min_margin": 0.3, "min_chosen_score": 1, "max_chosen_tokens": 8}
    pairs, ledger = world.run(**limits, max_length_ratio=2, min_length_ratio=0.5)
    assert reasons(ledger, "actor") == expected
    assert pairs["prompt_id"].to_list() == [kept]
    details = dict(ledger.select("reason", "detail").rows())
    ratios = sorted(ledger.filter(reason="length_ratio")["detail"])
    assert details["truncated"] == "1 of 2 candidates ended by themselves"
    assert details["thoughts"] == "1 of 2 ended candidates are thoughts without an answer"
    assert details["overlong"] == "chosen has 9 tokens, at most 8"
    assert details["margin"] == "scores 3.4 and 3.1, min_margin 0.3"
    assert details["low_score"] == "chosen has the score 0.9, min_chosen_score 1.0"
    assert details["shortened"] == "1 of 2 ended candidates have a score, 1 were judged only in part"
    assert ratios[0] == "chosen has 3 tokens, rejected 7: at least 0.5 times"
    assert ratios[1] == "chosen has 7 tokens, rejected 3: at most 2.0 times"


def test_truncated_candidates_never_pair(world: World) -> None:
    cut = {"score": 5.0, "finish_reason": "length"}
    world.prompt("p", {"score": 3.0}, cut, {"score": 2.0})
    pairs, _ = world.run()
    assert pairs.select("score_chosen", "score_rejected").rows() == [(3.0, 2.0)]


def test_cut_candidates_may_lose_and_never_win_if_so_configured(world: World) -> None:
    cut = {"finish_reason": "length"}
    both = world.prompt("both", {"score": 3.0}, {"score": 5.0, **cut}, {"score": 1.0, **cut})
    worst = world.prompt("one", {"score": 2.0}, {"score": 4.0, **cut})
    none = world.prompt("none", {"score": 2.0, **cut}, {"score": 4.0, **cut})
    for per_prompt in ("best_worst", "all"):
        pairs, ledger = world.run(truncated="rejected", per_prompt=per_prompt)
        assert pairs.select("prompt_id", "score_chosen", "score_rejected").rows() == [(both, 3.0, 1.0)]
        assert reasons(ledger, "actor") == {worst: "tie", none: "truncated"}
        assert set(ledger["detail"]) == {
            "none of 2 scores is below the best that ended, 2.0", "0 of 2 candidates ended by themselves",
        }  # fmt: skip


def test_every_judge_reason(world: World) -> None:
    two = {"score": 1.0}, {"score": 5.0}
    best, worst = {"score": 2, "rating": 1100.0}, {"score": 4, "rating": 900.0}
    cases: dict[str, list[dict[str, Any]]] = {
        "unparsed": [{**best, "battles": 0}, {**worst, "battles": 0}],
        "alike": [{**best, "battles": 0, "alike": 2}, {**worst, "battles": 0, "alike": 2}],
        "tie": [{**best, "rating": 1000.0 + 1e-8}, {**worst, "rating": 1000.0 - 1e-8}],
        "truncated": [best, {**worst, "finish_reason": "length"}],
        "identical": [{**best, "text": "Score: 2"}, {**worst, "text": "Score: 2"}],
        "same_score": [best, {**worst, "score": 2}],
        "overlong": [{**best, "tokens": 11}, worst],
    }
    expected = {}
    for reason, judgements in cases.items():
        key = world.prompt(reason, *two)
        world.judged(key, *judgements)
        expected[key] = reason
    expected[world.prompt("nobody asked", *two)] = "not_compared"
    kept = world.prompt("kept", *two)
    world.judged(kept, {**best, "tokens": 10}, {**worst, "tokens": 20}, {"score": 3, "rating": 1000.0})
    pairs, ledger = world.run(judge_share=0.5, same_score_judgements=False, max_chosen_judgement_tokens=10)
    assert reasons(ledger, "judge") == expected
    assert pairs.filter(pl.col("kind") == "judge")["prompt_id"].to_list() == [kept]
    assert ledger.filter(pl.col("candidate_id").is_null())["reason"].to_list() == ["not_compared"]


@pytest.mark.parametrize(("share", "actor", "judge"), [(0.0, 20, 0), (0.2, 20, 5), (1.0, 0, 12), (0.375, 20, 12)])
def test_the_share_of_judge_pairs_is_exact(world: World, share: float, actor: int, judge: int) -> None:
    """D12: the share was neither reached nor an upper bound."""
    pairs, ledger = populate(world, prompts=20, judged=12).run(judge_share=share)
    assert dict(pairs["kind"].value_counts().rows()) == {k: n for k, n in (("actor", actor), ("judge", judge)) if n}
    assert set(reasons(ledger, "judge").values()) == {"not_compared"} | ({"budget"} if judge < 12 else set())
    assert list(reasons(ledger, "actor").values()) == ["budget"] * (20 - actor)


def test_judge_pairs_are_balanced_over_the_chosen_scores(world: World) -> None:
    pairs, _ = populate(world, prompts=36, judged=36).run(judge_share=0.2)
    votes = read(world.folder / "votes-0.parquet", tables.VOTES)
    taken = pairs.filter(pl.col("kind") == "judge").join(
        votes, left_on=["chosen_candidate_id", "chosen_vote"], right_on=["candidate_id", "vote"]
    )
    assert sorted(taken["score"].value_counts().rows()) == [(1.0, 3), (2.0, 3), (3.0, 3)]


def test_too_few_judge_pairs_are_said(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    pairs, _ = populate(world, prompts=20, judged=3).run(judge_share=0.5)
    assert pairs.height == 23
    assert (
        "20 actor and 3 judge pairs (share 0.130), too few judge pairs for judge_share 0.5" in capsys.readouterr().err
    )


def test_max_pairs_keeps_the_share(world: World) -> None:
    pairs, ledger = populate(world, prompts=20, judged=12).run(judge_share=0.2, max_pairs=10)
    assert sorted(pairs["kind"].value_counts().rows()) == [("actor", 8), ("judge", 2)]
    assert ledger["reason"].value_counts(sort=True).rows() == [("budget", 22), ("not_compared", 8)]


def test_the_class_cap_is_of_the_judge_pairs_used(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for number, score in enumerate([5] * 16 + [4] * 3 + [2]):
        key = world.prompt(f"prompt {number}", {"score": 1.0}, {"score": 2.0})
        world.judged(key, {"score": score, "rating": 1100.0}, {"score": 0, "rating": 900.0})
    pairs, ledger = world.run(judge_share=0.5, max_judge_class_share=0.5)
    # Eight: four of the fives, three fours, one two. Nine would allow no fifth five.
    assert pairs.filter(pl.col("kind") == "judge").height == 8
    assert ledger["reason"].to_list() == ["class_cap"] * 12
    assert ledger["detail"][0] == "at most 4 of 8 pairs choose a judgement with one score (max_judge_class_share)"
    assert "judge_share 0.5: max_judge_class_share allows no more" in capsys.readouterr().err


def test_prompts_in_are_pairs_and_ledger_rows(world: World) -> None:
    """G3: prompts without a usable response vanished."""
    populate(world, prompts=15, judged=7)
    world.prompt("equal", {"score": 3.0}, {"score": 3.0})
    pairs, ledger = world.run(judge_share=0.1)
    everyone = sorted(row["prompt_id"] for row in world.rows[tables.PROMPTS.name])
    for kind in ("actor", "judge"):
        parts = [table.filter(pl.col("kind") == kind)["prompt_id"].to_list() for table in (pairs, ledger)]
        assert sorted(parts[0] + parts[1]) == everyone


def test_without_a_meta_judge_there_are_no_judge_rows(world: World) -> None:
    pairs, ledger = populate(world, prompts=3, judged=0).run()
    assert {*pairs["kind"], *ledger["kind"]} == {"actor"}


def test_shards_and_row_order_change_nothing(world: World) -> None:
    """D22: each rank had judge pairs of its own; here the iteration's are one pool."""
    populate(world, prompts=17, judged=9)
    world.prompt("drawn", *[{"score": 1.0}] * 3, *[{"score": 2.0}] * 3)
    settings = {"judge_share": 0.2, "max_pairs": 12}
    once, again = world.run(**settings), world.run(shards=3, reverse=True, **settings)
    assert once[0].equals(again[0])
    assert once[1].equals(again[1])
    assert not once[0].equals(world.run(seed=1, **settings)[0])


def test_no_pair_at_all_is_refused_with_the_reasons(world: World) -> None:
    world.prompt("p", {"score": 3.0}, {"score": 3.0})
    world.prompt("q")
    with pytest.raises(StageError, match="none of 2 prompts yields a pair: actor no_candidate 1, actor tie 1"):
        world.run()
    assert not (world.folder / "pairs.parquet").exists()


@pytest.mark.parametrize("table", [tables.JUDGEMENTS, tables.JUDGE_PROMPTS, tables.CANDIDATE_PROMPTS])
def test_a_missing_shard_is_refused(world: World, table: Table) -> None:
    populate(world, prompts=2, judged=2)
    world.rows[table.name] = world.rows[table.name][:1]
    with pytest.raises(StageError, match=r"no row for .*give all of the iteration's files"):
        world.run(judge_share=0.5)


@pytest.mark.parametrize("settings", [{"judge_share": 1.5}, {"length_control": -0.1}])
def test_shares_beyond_0_to_1_are_refused(world: World, settings: dict[str, Any]) -> None:
    world.prompt("p", {"score": 3.0}, {"score": 4.0})
    with pytest.raises(ValidationError, match=next(iter(settings))):
        world.run(**settings)


def test_the_meta_judges_tables_are_needed_together(world: World) -> None:
    world.prompt("p", {"score": 3.0}, {"score": 4.0})
    with pytest.raises(StageError, match="needed together"):
        world.run(ratings=Path("r.parquet"))


def test_provenance_names_the_inputs(world: World) -> None:
    populate(world, prompts=2, judged=2).run(judge_share=0.5)
    facts = provenance(world.folder / "pairs.parquet")
    assert facts["stage"] == "pairs"
    assert len(facts["inputs"]) == 8


def random_world(folder: Path, seed: int) -> World:
    """Prompts of all kinds: few candidates, cut ones, unscored ones, equal ones, judged ones."""
    chance, world = random.Random(seed), World(folder)
    for number in range(12):
        candidates = [
            {"score": chance.choice([None, 1.0, 2.0, 2.0, 4.5]), "tokens": chance.randint(1, 9),
             "status": chance.choice(["ok", "ok", "verified"]), "text": chance.choice("abcdefgh"),
             "finish_reason": chance.choice(["stop", "stop", "stop", "length"])}
            for _ in range(chance.randint(0, 6))
        ]  # fmt: skip
        for candidate in candidates:
            candidate["status"] = "shortened" if candidate["score"] is None else candidate["status"]
        key = world.prompt(f"prompt {number}", *candidates)
        if candidates and chance.random() < 0.7:
            ratings = [chance.choice([900.0, 1000.0, 1100.0]) for _ in range(3)]
            world.judged(key, *({"score": chance.randint(0, 5), "rating": rating} for rating in ratings))
    world.judged(world.prompt("sure", {"score": 1.0}, {"score": 5.0}), {"score": 1, "rating": 1.0})
    return world


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "settings",
    [
        {"min_margin": 1.0, "max_length_ratio": 1.5, "min_chosen_score": 3.0},
        {"per_prompt": "all", "max_pairs_per_prompt": 2, "max_pairs": 9},
        {"per_prompt": "all", "max_judge_class_share": 0.4},
        {"truncated": "rejected", "length_control": 0.3},
        {"truncated": "rejected", "per_prompt": "all", "min_margin": 1.0},
    ],
)
def test_everything_considered_is_a_pair_or_has_one_reason(tmp_path: Path, seed: int, settings: dict[str, Any]) -> None:
    world = random_world(tmp_path, seed)
    pairs, ledger = world.run(judge_share=0.3, **settings)
    everyone = {row["prompt_id"] for row in world.rows[tables.PROMPTS.name]}
    for kind in ("actor", "judge"):
        used = pairs.filter(pl.col("kind") == kind).select(
            "prompt_id", pl.col("pair_id").str.split("-").list.last().cast(pl.Int64)
        )
        dropped = ledger.filter(pl.col("kind") == kind).select("prompt_id", "pair")
        found = used.rows() + dropped.rows()
        assert {prompt for prompt, _ in found} == everyone
        assert len(set(found)) == len(found)
        for prompt in everyone:
            assert sorted(pair for key, pair in found if key == prompt) == list(
                range(sum(key == prompt for key, _ in found))
            )
        if kind == "judge" or "per_prompt" not in settings:
            assert len(found) == len(everyone)
    assert world.run(judge_share=0.3, shards=2, reverse=True, **settings)[0].equals(pairs)
