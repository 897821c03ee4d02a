"""EFT, from files to files: the examples, the ledger, and what stops the run."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import eft as stage
from stages.algorithms.agreement import Rule
from stages.config import EftSection
from stages.contracts.artifacts import read, write
from stages.contracts.errors import StageError
from stages.contracts.ids import candidate_id, judgement_id
from stages.contracts.schema import Table, frame
from stages.tables import EFT_LEDGER, JUDGE_PROMPTS, JUDGEMENTS, RANKED, SFT_EXAMPLES, VOTES
from tests.support.judged_answers import PROMPTS_JUDGED, RULE, Judged, reasons


class Files:
    """The inputs of the stage, and its run."""

    def __init__(self, folder: Path, prompts: dict[str, Judged], texts: dict[str, str] | None = None) -> None:
        self.folder, self.rows = folder, {table.name: [] for table in (RANKED, VOTES, JUDGEMENTS, JUDGE_PROMPTS)}
        for key, (ranks, scores) in prompts.items():
            for number, rank in enumerate(ranks):
                keys = {"prompt_id": key, "candidate_id": candidate_id(key, 0, number)}
                answer = {"text": f"answer {number}", "finish_reason": "stop", "rank": rank}
                question = [{"role": "user", "content": f"Judge {keys['candidate_id']}"}]
                self._add(RANKED, keys, answer)
                self._add(
                    JUDGE_PROMPTS, keys, {"messages": question, "token_ids": [1], "shortened": False, "judge": "policy"}
                )
                for vote, score in enumerate(scores[number]):
                    name = judgement_id(keys["candidate_id"], vote)
                    text = (texts or {}).get(name, f"{name} says {score}")
                    status = "no_match" if score is None else "ok"
                    sampled = {"judge": "policy", "finish_reason": "stop", "tokens": 2}
                    self._add(VOTES, keys, {"vote": vote, "score": score, "parse_status": status, **sampled})
                    self._add(
                        JUDGEMENTS, keys, {"vote": vote, "seed": 0, "text": text, "token_ids": [vote, 9], **sampled}
                    )

    def _add(self, table: Table, keys: dict[str, str], values: dict[str, Any]) -> None:
        self.rows[table.name].append({**keys, **values})

    def run(self, shards: int = 1, **changed: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
        files = {table.name: self._write(table, shards) for table in (RANKED, JUDGEMENTS, JUDGE_PROMPTS)}
        outputs = {"output": self.folder / "examples.parquet", "ledger": self.folder / "ledger.parquet"}
        inputs = {"answers": files["ranked"], "votes": self._write(VOTES, 1)[0]}
        inputs |= {"judgements": files["judgements"], "judge_prompts": files["judge_prompts"]}
        stage.main(stage.Args(**{"max_class_share": 1.0, **inputs, **outputs, **changed}))
        return read(outputs["output"], SFT_EXAMPLES), read(outputs["ledger"], EFT_LEDGER)

    def _write(self, table: Table, shards: int) -> list[Path]:
        paths = [self.folder / f"{table.name}-{shards}-{shard}.parquet" for shard in range(shards)]
        for shard, path in enumerate(paths):
            write(frame(table, self.rows[table.name][shard::shards]), path, table, {})
        return paths


KEPT_COLUMNS = ["candidate_id", "vote", "reason", "detail"]
AGREEING: dict[str, Judged] = {
    "a": ([0, 1], {0: [5, 3], 1: [2, 3]}),
    "b": ([1, 0], {0: [1, 4], 1: [4, 2]}),
    "c": ([0, 0, 1], {0: [4, None], 1: [3, 3], 2: [2, 1]}),
}


def test_an_example_is_the_judges_input_and_the_judgement_as_it_came(tmp_path: Path) -> None:
    examples, ledger = Files(tmp_path, AGREEING).run()
    assert set(examples["example_id"]) == {
        f"eft-{judgement_id(candidate_id(key, 0, number), 0)}" for key in AGREEING for number in AGREEING[key][1]
    }
    assert examples.row(0, named=True) == {
        "example_id": "eft-a-0-0-v0",
        "messages": [
            {"role": "user", "content": "Judge a-0-0"},
            {"role": "assistant", "content": "a-0-0-v0 says 5"},
        ],
        "answer_token_ids": [0, 9],
        "prompt_loss_weight": 0.0,
    }
    assert ledger["candidate_id", "vote", "reason"].rows() == [
        ("a-0-0", 1, "tie"), ("a-0-1", 1, "tie"),
        ("b-0-0", 1, "disagrees"), ("b-0-1", 1, "disagrees"),
        ("c-0-0", 1, "unparsed"), ("c-0-1", 1, "incomplete"), ("c-0-2", 1, "incomplete"),
    ]  # fmt: skip


@settings(max_examples=12)
@given(PROMPTS_JUDGED, RULE, st.sampled_from([0.3, 0.5, 1.0]), st.none() | st.integers(1, 5), st.integers(1, 3))
def test_every_judgement_is_an_example_or_has_one_reason(
    tmp_path_factory: pytest.TempPathFactory, prompts: dict[str, Judged], rule: Rule, share: float,
    budget: int | None, shards: int,
) -> None:  # fmt: skip
    files = Files(tmp_path_factory.mktemp("eft"), prompts)
    given_settings = {"agreement": rule, "max_class_share": share, "max_judgements": budget}
    try:
        examples, ledger = files.run(**given_settings)
    except StageError as error:
        assert "kept" not in reasons(prompts, rule).values()
        assert "agrees with people's ranks" in str(error)  # noqa: PT017
        return
    dropped = [judgement_id(*row) for row in ledger["candidate_id", "vote"].rows()]
    everything = [judgement_id(row["candidate_id"], row["vote"]) for row in files.rows[VOTES.name]]
    assert sorted([*(key.removeprefix("eft-") for key in examples["example_id"]), *dropped]) == sorted(everything)
    again = files.run(shards=shards, **given_settings)
    assert again[0].equals(examples)
    assert again[1].equals(ledger)


def test_judgements_with_the_same_text_of_the_same_answer_are_one_example(tmp_path: Path) -> None:
    prompts: dict[str, Judged] = {"a": ([0, 1], {0: [5, 5], 1: [2, 2]})}
    same = {judgement_id(candidate_id("a", 0, 0), vote): "Score: 5" for vote in range(2)}
    examples, ledger = Files(tmp_path, prompts, same).run()
    assert examples.height == 3
    assert ledger["candidate_id", "vote", "reason"].rows() == [("a-0-0", 1, "duplicate")]


def test_the_seed_chooses_what_balancing_keeps_and_nothing_else_does(tmp_path: Path) -> None:
    prompts: dict[str, Judged] = {f"p{number}": ([0, 1], {0: [4.0], 1: [number % 4]}) for number in range(40)}
    files = Files(tmp_path, prompts)
    kept = {seed: files.run(seed=seed, max_class_share=0.3)[0] for seed in (0, 1)}
    # 40 fours beside four classes of 10: the most is 0.3 of 40 / 0.7, that is 17 of 57.
    assert [table.height for table in kept.values()] == [57, 57]
    assert not kept[0].equals(kept[1])
    assert kept[0].equals(files.run(seed=0, max_class_share=0.3, shards=3)[0])


def test_judgements_of_shortened_answers_teach_nothing(tmp_path: Path) -> None:
    files = Files(tmp_path, AGREEING)
    for row in files.rows[JUDGE_PROMPTS.name]:
        row["shortened"] = row["candidate_id"] == candidate_id("a", 0, 0)
    examples, ledger = files.run()
    assert not [key for key in examples["example_id"] if key.startswith("eft-a-")]
    found = {(key, vote): (reason, detail) for key, vote, reason, detail in ledger.select(KEPT_COLUMNS).iter_rows()}
    assert found["a-0-0", 0] == ("unparsed", "vote is shortened")
    assert found["a-0-1", 0][0] == "incomplete"


def test_nothing_to_learn_from_stops_the_run_with_the_counts(tmp_path: Path) -> None:
    prompts: dict[str, Judged] = {"a": ([0, 1], {0: [1, 3, None], 1: [2, 3, 4]})}
    with pytest.raises(StageError, match=r"none of 6 judgements .*disagrees 2, tie 2, incomplete 1, unparsed 1.*votes"):
        Files(tmp_path, prompts).run()


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (RANKED, r"--answers .*no ranked answer for 2 votes, first candidate a-0-0 vote 0"),
        (JUDGEMENTS, r"--judgements .*no judgement for 1 votes, first candidate a-0-0 vote 0"),
        (JUDGE_PROMPTS, r"--judge-prompts .*no judge prompt for 1 votes, first candidate a-0-0 vote 0"),
    ],
)
def test_inputs_of_different_runs_are_refused(tmp_path: Path, table: Table, problem: str) -> None:
    files = Files(tmp_path, AGREEING)
    del files.rows[table.name][0]
    with pytest.raises(StageError, match=problem):
        files.run()


def test_the_stages_settings_are_those_of_the_configuration() -> None:
    for name in ("agreement", "tie_tolerance", "allow_ties", "max_class_share", "max_judgements"):
        own, configured = stage.Args.model_fields[name], EftSection.model_fields[name]
        assert repr(own) == repr(configured)
