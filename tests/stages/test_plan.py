"""The command that plans: its page and JSON, what an earlier run tells, and errors of one sentence."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages import plan
from stages.contracts.errors import StageError
from tests.support.workflow_run import ROOT

DEMO = ROOT / "config/config.yaml"
PAGE = (ROOT / "docs/planning.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the command prints."""
    plan.main(plan.parsed(list(map(str, words))))
    return capsys.readouterr().out


def values(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    return json.loads(shown(capsys, *words, "--json"))


def overlay(folder: Path, **sections: Any) -> Path:
    path = folder / "overlay.yaml"
    path.write_text(yaml.safe_dump(sections), encoding="utf-8")
    return path


def test_the_page_of_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    page = shown(capsys, DEMO, "--prompt-tokens", 18, "--response-tokens", 17, "--tokens-per-second-generate", 1000)
    assert page.startswith("Plan of run tinyworld")
    assert re.search(
        r"^1 +candidates +2 +1536 +27\.6k \(528k\) +26\.1k \(61\.4k\) +0\.00725 \(0\.0171\) *$", page, re.M
    )
    assert re.search(r"^1 +judge +2 +4608 .*\? \(276k\)", page, re.M), "the length of judgements is not stated"
    assert "- how long judgements are, and so what to expect of their tokens: state --judgement-tokens" in page
    assert "- how many hours train takes: state --tokens-per-second-train" in page
    assert re.search(r"^in all +48 *$", page, re.M)


def test_json_has_the_documented_keys(capsys: pytest.CaptureFixture[str]) -> None:
    found = values(capsys, DEMO)
    stages = {key for stage in found["stages"] for key in stage}
    for key in [*found, *stages, *found["disk"], *found["memory_per_rank"]]:
        assert f"`{key}`" in PAGE, key


def test_later_files_lie_over_earlier_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = overlay(tmp_path, select={"prompts": 10}, run={"shards": 5})
    found = values(capsys, DEMO, other)
    assert found["run"] == "tinyworld"
    assert found["jobs"]["candidates"] == 15
    (candidates,) = [one for one in found["stages"] if (one["iteration"], one["rule"]) == (1, "candidates")]
    assert candidates["requests"] == {"expected": 40, "most": 40}


def test_what_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = str(tmp_path / "none")
    missing = {"prompts": f"{none}/held_out.jsonl"}
    found = values(capsys, DEMO, overlay(tmp_path, run={"model": none}, evaluate=missing, eft={"sources": [none]}))
    assert (found["parameters"], found["memory_per_rank"], found["disk"]["models"]) == (None, None, None)
    for sentence in (
        f"{none}: no config.json there, so that weights, memory and the disk of models are not known",
        f"{none}/held_out.jsonl: no such file, so that how many prompts models are measured on is not known",
        f"{none}: no such file, so that how many answers EFT judges and the judge is tested with is not known",
    ):
        assert sentence in found["unknown"]
    assert "?" in shown(capsys, DEMO, tmp_path / "overlay.yaml")


def test_an_earlier_run_tells_lengths_and_shares(run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = values(capsys, DEMO, "--like", run_directory)
    assert any(re.search(r"mean lengths in tokens: response \d", sentence) for sentence in found["assumptions"])
    assert any("not a readable Parquet file" in sentence for sentence in found["unknown"]), "remains of another run"
    stated = values(capsys, DEMO, "--like", run_directory, "--response-tokens", 7)
    assert any("response 7," in sentence for sentence in stated["assumptions"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.yaml"], "none.yaml: no such file"),
        (["README.md"], "README.md: not a configuration: "),
        ([DEMO, "--like", "docs"], "docs: not the folder of a run"),
        (
            [DEMO, "--response-tokens", "41"],
            "a mean response of 41 tokens is above candidates.sampling.max_tokens (40)",
        ),
    ],
)
def test_errors_are_one_sentence(words: list[Any], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StageError) as error:
        shown(capsys, *words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_wrong_number_ends_the_program_with_a_sentence() -> None:
    command = [sys.executable, "-m", "stages.plan", str(DEMO), "--prompt-tokens", "-1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --prompt-tokens: ")


def test_what_snakemake_refuses_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StageError, match="megatron: "):
        shown(capsys, DEMO, overlay(tmp_path, megatron={"tensor_parallel": 7}))
    with pytest.raises(StageError, match=r"unknown key 'run\.nothing'"):
        shown(capsys, DEMO, overlay(tmp_path, run={"nothing": 7}))
