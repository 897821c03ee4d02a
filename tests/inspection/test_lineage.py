"""The lineage of a key holds exactly the rows that belong to it."""

from pathlib import Path

import pytest

from stages import tables
from stages.contracts.artifacts import read, write
from stages.contracts.errors import StageError
from stages.contracts.schema import frame
from stages.inspection.lineage import key_of, lineage
from stages.inspection.run_folder import opened
from tests.inspection.conftest import HOSTILE, LEFT_OUT
from tests.support import synthetic_rules as made

PROMPT = made.prompt_key(1, 2)


def test_a_prompt_with_all_that_came_of_it(inspected: Path) -> None:
    found = lineage(opened(inspected), PROMPT)
    assert found["prompt"]["messages"] == made.messages(1, 2)
    assert found["prompt"]["places"] == ["prompts/pool.parquet", "iter-1/prompts.parquet"]
    (one,) = found["iterations"]
    assert one["iteration"] == 1
    assert [row["candidate_id"] for row in one["candidates"]] == [f"{PROMPT}-1-{n}" for n in range(made.SAMPLES)]
    for sample, row in enumerate(one["candidates"]):
        given = [made.vote_score(1, 2, sample, vote) for vote in range(made.VOTES_EACH)]
        assert row["text"] == made.response(1, 2, sample)
        assert [vote["score"] for vote in row["votes"]] == given
        assert [vote["text"] for vote in row["votes"]] == [made.judgement(score, sample) for score in given]
        known = [score for score in given if score is not None]
        assert row["score"]["score"] == pytest.approx(sum(known) / len(known))
        assert not [name for name in row if name.endswith("token_ids")]
    (check,) = one["candidates"][0]["verifications"]
    assert (check["instruction"], check["passed"]) == ("length", False)
    assert one["candidates"][1]["verifications"] == []


def test_comparisons_and_ratings_stand_at_their_candidate(inspected: Path) -> None:
    battles = read(inspected / "iter-1/battles.parquet", tables.BATTLES).filter(prompt_id=PROMPT)
    ratings = read(inspected / "iter-1/ratings.parquet", tables.RATINGS).filter(prompt_id=PROMPT)
    (compared,) = battles["candidate_id"].unique()
    (one,) = lineage(opened(inspected), PROMPT)["iterations"]
    for row in one["candidates"]:
        shown = [(each["vote_a"], each["vote_b"], each["winner"]) for each in row["comparisons"]]
        rated = {vote["vote"]: vote["rating"]["rating"] for vote in row["votes"] if vote["rating"]}
        here = row["candidate_id"] == compared
        assert shown == (battles.select("vote_a", "vote_b", "winner").rows() if here else [])
        assert rated == (dict(ratings.select("vote", "rating").iter_rows()) if here else {})


def test_pairs_say_what_training_made_of_them(inspected: Path) -> None:
    (one,) = lineage(opened(inspected), PROMPT)["iterations"]
    pairs = {row["pair_id"]: row for row in one["pairs"]}
    actor = pairs[LEFT_OUT.format(PROMPT)]
    assert actor["training"] == {"status": "left_out", "reason": "overlong", "detail": f"400 {HOSTILE}"}
    assert actor["reference"]["rejected_logprob"] == -2.5
    assert pairs[f"judge-1-{PROMPT}-0"]["training"]["status"] == "trained"
    (two,) = lineage(opened(inspected), made.prompt_key(2, 2))["iterations"]
    assert {row["training"]["status"] for row in two["pairs"]} == {"not_yet"}
    assert two["pairs"][0]["reference"] is None


def test_a_prompt_without_a_pair_has_the_ledgers_reason(inspected: Path) -> None:
    (one,) = lineage(opened(inspected), made.prompt_key(1, 3))["iterations"]
    assert one["pairs"] == []
    assert [(row["kind"], row["reason"]) for row in one["ledger"]] == [("actor", "tie"), ("judge", "not_compared")]


def test_a_pair_and_a_candidate_narrow_it(inspected: Path) -> None:
    run = opened(inspected)
    (one,) = lineage(run, LEFT_OUT.format(PROMPT))["iterations"]
    (pair,) = one["pairs"]
    members = {pair["chosen_candidate_id"], pair["rejected_candidate_id"]}
    assert {row["candidate_id"] for row in one["candidates"]} == members
    assert one["ledger"] == []
    (one,) = lineage(run, pair["chosen_candidate_id"])["iterations"]
    assert [row["candidate_id"] for row in one["candidates"]] == [pair["chosen_candidate_id"]]
    assert pair["pair_id"] in [row["pair_id"] for row in one["pairs"]]
    other = next(f"{PROMPT}-1-{n}" for n in range(made.SAMPLES) if f"{PROMPT}-1-{n}" not in members)
    (one,) = lineage(run, other)["iterations"]
    assert pair["pair_id"] not in [row["pair_id"] for row in one["pairs"]]


def test_held_out_prompts_have_the_models_answers(inspected: Path, tmp_path: Path) -> None:
    row = {"prompt_id": f"{5:016x}", "messages": made.messages(1, 5), "split": "validation", "source": "h", "row": 1}
    for place in ("evaluation", "iter-1"):
        (tmp_path / place).symlink_to(inspected / place)
    write(frame(tables.PROMPTS, [row]), tmp_path / "prompts/held_out.parquet", tables.PROMPTS, {})
    found = lineage(opened(tmp_path), row["prompt_id"])
    assert found["iterations"] == []
    answers = [(each["model"], each["decoding"], each["quality"]) for each in found["evaluations"]]
    assert answers == [
        (name, decoding, float(min(5, 1 + model)))
        for name, model in (("base", -1), ("0", 0), ("1", 1), ("2", 2), ("3", 3))
        for decoding in ("greedy", "sample")
    ]


def test_unknown_keys_are_refused(inspected: Path) -> None:
    run = opened(inspected)
    for key, words in (
        ("x" * 16, "no prompt_id"),
        ("0" * 16, f"{inspected}: no prompt 0000000000000000"),
        (f"{PROMPT}-1-9", f"no candidate {PROMPT}-1-9; `trace` and `why` show its prompt"),
        (f"actor-3-{PROMPT}-0", f"no pair actor-3-{PROMPT}-0"),
    ):
        with pytest.raises(StageError, match=words):
            lineage(run, key)
    assert key_of(f"judge-12-{PROMPT}-1") == ("pair", f"judge-12-{PROMPT}-1", PROMPT)
