"""Why a prompt gave a pair or none, in words; every reason that there is has some."""

import re
from pathlib import Path

import pytest

from stages.algorithms import pair_outcomes
from stages.config import PairsSection
from stages.contracts.errors import StageError
from stages.inspection.reasons import NO_PAIR, NOT_TRAINED, reasons
from stages.inspection.run_folder import opened
from stages.tables import TRAIN_LEDGER
from tests.support import synthetic_rules as made


def words(run: Path, iteration: int, number: int) -> list[tuple[int, str, str]]:
    found = reasons(opened(run), made.prompt_key(iteration, number))
    return [(row["iteration"], row["outcome"], row["words"]) for row in found["answers"]]


def test_every_reason_has_words() -> None:
    settings = PairsSection()
    tried = [*pair_outcomes._actor_reasons(settings), *pair_outcomes._judge_reasons(settings)]
    assert set(NO_PAIR) == {name for name, *_ in tried} | {"surplus", "budget", "class_cap"}
    assert set(NOT_TRAINED) == set(re.findall(r"`(\w+)`", TRAIN_LEDGER.columns["reason"][1]))


def test_a_tie_a_pair_and_a_pair_that_training_left_out(inspected: Path) -> None:
    assert words(inspected, 1, 3) == [
        (1, "no_pair", "no pair: the best is not better than the worst (tie: all 4 scores are 3.0)"),
        (1, "no_pair", "no pair: none of its answers had judgements that were compared "
                       "(not_compared: no candidate with compared judgements)"),
    ]  # fmt: skip
    (actor, judge) = words(inspected, 1, 2)
    assert re.match(r"a pair, actor-1-\w+-0: [\d.]+ over [\d.]+; not trained on: it is longer than the", actor[2])
    assert actor[2].endswith("sequences (overlong: 400 [red]bold[/red] \x1b[31m\x07 \u202e :smile:)")
    assert re.fullmatch(r"a pair, judge-1-\w+-0; trained on", judge[2])


def test_second_pairs_have_their_number(inspected: Path) -> None:
    found = [row for row in words(inspected, 1, 5) if "margin" in row[2]]
    assert [row[2].partition(":")[0] for row in found] == ["no pair 2"]
    assert words(inspected, 2, 2)[-1][2].endswith("; training has not ended yet")


def test_a_prompt_that_no_iteration_drew_or_whose_pairs_are_not_made_yet(inspected: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts").symlink_to(inspected / "prompts")
    assert words(tmp_path, 1, 2) == [(None, "not_drawn", "no iteration has drawn it yet")]
    (tmp_path / "iter-1").mkdir()
    (tmp_path / "iter-1/prompts.parquet").symlink_to(inspected / "iter-1/prompts.parquet")
    assert words(tmp_path, 1, 2) == [(1, "not_yet", "the stage `pairs` has not run yet")]
    assert reasons(opened(tmp_path), made.prompt_key(1, 2))["drawn"] == [1]


def test_other_keys_and_unknown_prompts_are_refused(inspected: Path) -> None:
    prompt = made.prompt_key(1, 2)
    with pytest.raises(StageError, match=f"the key of a candidate; ask for its prompt, {prompt}"):
        reasons(opened(inspected), f"{prompt}-1-0")
    with pytest.raises(StageError, match="no prompt ffffffffffffffff in its pool"):
        reasons(opened(inspected), "f" * 16)
