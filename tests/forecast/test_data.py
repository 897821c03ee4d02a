"""Rows of the demo's data, counted as its stages count them."""

import json
from pathlib import Path

import pytest

from stages.forecast.configuration import configured
from stages.forecast.data import Data, counted
from tests.support.small_plan import small
from tests.support.workflow_run import ROOT


def test_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    data = counted(configured([ROOT / "config/config.yaml"]))
    lines = (ROOT / "examples/tinyworld/held_out.jsonl").read_text(encoding="utf-8").splitlines()
    assert data.held_out == len(lines)
    assert (data.ranked, data.tests) == (892 * 4, 308 * 4), "docs/how-it-works.md"
    assert data.missing == []


def test_duplicates_count_once_and_checks_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    check = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    rows = [{"prompt": "One?"}, {"prompt": "one?"}, {"prompt": "Two?", **check}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    files = {"ingest": {"sources": [str(path)]}, "evaluate": {"prompts": str(path)}}
    assert counted(small(**files)) == Data(held_out=2)
    assert counted(small(**files, verify={"enabled": True})) == Data(held_out=2, checked_share=0.5)


def test_missing_files_are_told() -> None:
    data = counted(small(verify={"enabled": True}))
    assert (data.held_out, data.checked_share) == (None, None)
    assert [sentence.partition(":")[0] for sentence in data.missing] == ["none.jsonl", "none.jsonl"]
