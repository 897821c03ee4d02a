"""The stage `verify`: a row for each candidate and check, also where a check raises."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages import verify
from stages.contracts.artifacts import provenance, read, write
from stages.contracts.errors import StageError
from stages.contracts.ids import prompt_id
from stages.contracts.schema import frame
from stages.tables import CANDIDATES, PROMPTS, VERIFICATIONS
from tests.support.records import candidate_row, prompt_row, turn

NO_COMMA = {"id": "punctuation:no_comma", "arguments": {}}
GERMAN = {"id": "language:response_language", "arguments": {"language": "de"}}
REPEAT = {"id": "combination:repeat_prompt", "arguments": {}}


def run(
    folder: Path, given: list[tuple[list[dict[str, str]], list[dict[str, Any]], list[str]]], reason: str = "stop"
) -> pl.DataFrame:
    """Write prompts (messages, checks) with their responses, run the stage, and read what it found."""
    prompts, candidates = [], []
    for row, (messages, checks, responses) in enumerate(given, start=1):
        key = prompt_id(messages)
        text = json.dumps(checks) if checks else None
        prompts += [prompt_row(messages, row, checks=text)]
        candidates += [candidate_row(key, sample, response, reason) for sample, response in enumerate(responses)]
    paths = {name: folder / f"{name}.parquet" for name in ("prompts", "candidates", "output")}
    write(frame(PROMPTS, prompts), paths["prompts"], PROMPTS, {})
    write(frame(CANDIDATES, candidates), paths["candidates"], CANDIDATES, {})
    verify.main(verify.Args(**paths))
    return read(paths["output"], VERIFICATIONS)


def test_each_candidate_has_a_row_for_each_instruction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked, plain = [turn("user", "Sprich")], [turn("user", "Hi")]
    good, bad = "Das Wetter ist heute wirklich sehr schön.", "No, this is not the language."
    found = run(tmp_path, [(checked, [NO_COMMA, GERMAN], [good, bad]), (plain, [], ["a, b"])])
    key = prompt_id(checked)
    assert found.rows() == [
        (key, f"{key}-1-0", 0, "punctuation:no_comma", True, None),
        (key, f"{key}-1-0", 1, "language:response_language", True, None),
        (key, f"{key}-1-1", 0, "punctuation:no_comma", False, None),
        (key, f"{key}-1-1", 1, "language:response_language", False, None),
    ]
    assert provenance(tmp_path / "output.parquet")["stage"] == "verify"
    assert "2 of 3 candidates checked, 2 of 4 checks passed, 0 not carried out" in capsys.readouterr().err


def test_a_check_that_raises_is_failed_and_stays_in_the_count(tmp_path: Path) -> None:
    """D26: it was left out of the count."""
    found = run(tmp_path, [([turn("user", "Zahl?")], [NO_COMMA, GERMAN, {"id": "new", "arguments": {}}], ["42"])])
    assert found["passed"].to_list() == [True, False, False]
    reasons = found["detail"].to_list()
    assert reasons[0] is None
    assert reasons[1] == "ValueError: the text has no letters to tell its language by"
    assert reasons[2].startswith("ValueError: unknown instruction 'new'")


def test_json_too_deep_to_read_is_failed(tmp_path: Path) -> None:
    check = {"id": "detectable_format:json_format", "arguments": {}}
    found = run(tmp_path, [([turn("user", "JSON?")], [check], ["[" * 200_000])])
    assert found["passed"].to_list() == [False]


@pytest.mark.parametrize(("text", "reason"), [("", "stop"), (" \n", "length"), ("fine", "error")])
def test_empty_and_failed_responses_follow_nothing(tmp_path: Path, text: str, reason: str) -> None:
    found = run(tmp_path, [([turn("user", "Hi")], [NO_COMMA, REPEAT], [text])], reason)
    assert found.select("passed", "detail").rows() == [(False, "there is no response")] * 2


def test_the_prompt_that_a_check_needs_is_the_last_user_turn_alone(tmp_path: Path) -> None:
    """D26: it got the whole conversation."""
    messages = [turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Hello"), turn("user", "And now?")]
    responses = ["And now? Tea.", "Hi And now? Tea.", "User: Hi\n\nAssistant: Hello\n\nUser: And now? Tea."]
    assert run(tmp_path, [(messages, [REPEAT], responses)])["passed"].to_list() == [True, False, False]


def test_without_checks_the_table_is_empty(tmp_path: Path) -> None:
    assert run(tmp_path, [([turn("user", "Hi")], [], ["Hello"])]).is_empty()


def test_candidates_of_unknown_prompts_are_refused(tmp_path: Path) -> None:
    run(tmp_path, [([turn("user", "Hi")], [NO_COMMA], ["Hello"])])
    write(frame(PROMPTS, []), tmp_path / "none.parquet", PROMPTS, {})
    paths = {"prompts": tmp_path / "none.parquet", "candidates": tmp_path / "candidates.parquet"}
    with pytest.raises(StageError, match=r"none.parquet: no row for prompt_id [0-9a-f]{16}"):
        verify.main(verify.Args(**paths, output=tmp_path / "output.parquet"))
