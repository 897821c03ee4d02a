"""Pairs and examples in the layouts of other trainers: row by row, and as files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from stages import __version__, export
from stages.contracts.artifacts import write
from stages.contracts.errors import StageError
from stages.contracts.files import file_digest
from stages.contracts.ids import prompt_id, split_position
from stages.contracts.schema import frame
from stages.exporting.folder import appearing
from stages.exporting.layouts import LAYOUTS, alternating
from stages.tables import SCORES
from tests.support.exports import (
    EXAMPLE_FILES,
    KEYS,
    MULTI,
    PAIR_FILES,
    SINGLE,
    SYSTEM,
    exported,
    manifest,
    pair_row,
    rows_of,
    write_pairs,
)
from tests.support.records import turn, turns

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_by_value(layout: str, run: Path) -> None:
    folder = exported(run, layout, "--iteration", 1, "--test-share", 0)
    file, rows = PAIR_FILES[layout]
    assert rows_of(folder / file) == rows
    index = {"dataset_info.json"} if layout == "llama-factory" else set()
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {file, "manifest.json", *index}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_examples_by_value_and_one_that_no_layout_holds(layout: str, examples: Path) -> None:
    folder = exported(examples, layout, "--test-share", 0)
    file, rows = EXAMPLE_FILES[layout]
    assert rows_of(folder / file) == rows
    reason = "no layout has a weight of the loss on the prompt (0.5)"
    assert rows_of(folder / "left_out.jsonl") == [{"example_id": "ift-2", "reason": reason}]
    assert manifest(folder)["left_out"] == {reason: 1}
    assert manifest(folder)["rows"] == "examples"


def test_the_manifest_names_sources_files_and_counts(run: Path) -> None:
    folder = exported(run, "nemo-rl")
    assert manifest(folder) == {
        "layout": "nemo-rl",
        "rows": "pairs",
        "version": __version__,
        "kind": "both",
        "test_share": 0.0,
        "sources": [
            {"path": str(path), "rows": rows, "digest": file_digest(path)}
            for path, rows in ((run / "iter-1/pairs.parquet", 3), (run / "iter-2/pairs.parquet", 1))
        ],
        "files": [{"path": "train.jsonl", "rows": 4, "digest": file_digest(folder / "train.jsonl")}],
        "left_out": {},
    }


def test_iterations_and_kinds_are_chosen(run: Path) -> None:
    def keys(source: Path, *words: object) -> list[str]:
        return [row["pair_id"] for row in rows_of(exported(source, "trl", *words) / "train.parquet")]

    assert keys(run) == [*KEYS, "actor-2-single-0"]
    assert keys(run, "--kind", "judge") == [KEYS[2]]
    assert keys(run, "--kind", "actor", "--iteration", 2, 1, 1) == [*KEYS[:2], "actor-2-single-0"]
    assert keys(run / "iter-2") == keys(run / "iter-2/pairs.parquet") == ["actor-2-single-0"]


def test_the_hash_of_a_prompt_decides_its_split_and_another_share_only_adds(tmp_path: Path) -> None:
    prompts = {f"{kind}-1-{n}-0": turns(f"prompt {n}") for n in range(200) for kind in ("actor", "judge")}
    path = write_pairs(tmp_path / "pairs.parquet", [pair_row(*row) for row in prompts.items()])
    tested = {}
    for share in (0.1, 0.3):
        folder = exported(path, "h4", *([] if share == 0.1 else ["--test-share", share]))
        parts = {split: rows_of(folder / f"data/{split}_prefs-00000-of-00001.parquet") for split in ("train", "test")}
        tested[share] = {row["prompt_id"] for row in parts["test"]}
        assert not tested[share] & {row["prompt_id"] for row in parts["train"]}
        assert tested[share] == {
            key for key in map(prompt_id, prompts.values()) if split_position(key, "export") < share
        }
        assert len(parts["train"]) + len(parts["test"]) == 400
    assert 10 <= len(tested[0.1]) <= 30
    assert tested[0.1] < tested[0.3]


def test_the_index_of_llama_factory_names_the_files(run: Path, examples: Path) -> None:
    about = {"formatting": "sharegpt", "ranking": True, "columns": {"messages": "conversations"}}
    about["columns"] |= {"chosen": "chosen", "rejected": "rejected"}  # type: ignore[operator]
    folder = exported(run, "llama-factory", "--test-share", 0.5)
    index = json.loads((folder / "dataset_info.json").read_text())
    assert index == {
        f"pairs_{split}": {"file_name": f"{split}.parquet", **about}
        for split in ("train", "test")
        if (folder / f"{split}.parquet").exists()
    }
    index = json.loads((exported(examples, "llama-factory") / "dataset_info.json").read_text())
    assert index["examples_train"]["ranking"] is False
    assert index["examples_train"]["columns"] == {"messages": "conversations"}


def test_what_llama_factory_would_skip_is_listed(tmp_path: Path) -> None:
    twice = [*turns("a"), *turns("b")]
    late = [*turns("a"), turn("system", "s"), *turns("b")]
    rows = [pair_row("actor-1-fine-0", SYSTEM), pair_row("actor-1-late-0", late), pair_row("actor-1-twice-0", twice)]
    folder = exported(write_pairs(tmp_path / "pairs.parquet", rows), "llama-factory")
    assert [row["pair_id"] for row in rows_of(folder / "train.parquet")] == ["actor-1-fine-0"]
    told = "turns must alternate after a first system turn, and are user, "
    assert rows_of(folder / "left_out.jsonl") == [
        {"pair_id": "actor-1-late-0", "reason": f"{told}system, user"},
        {"pair_id": "actor-1-twice-0", "reason": f"{told}user"},
    ]
    assert manifest(folder)["left_out"] == {f"{told}system, user": 1, f"{told}user": 1}
    assert len(rows_of(exported(tmp_path / "pairs.parquet", "trl") / "train.parquet")) == 3
    assert alternating(MULTI) is None
    assert alternating([turn("system", "s"), turn("system", "s"), *turns("a")]) is not None


def test_pairs_that_are_none_are_listed(tmp_path: Path) -> None:
    rows = [
        pair_row("actor-1-a-0", SINGLE),
        pair_row("actor-1-b-0", []),
        pair_row("actor-1-c-0", turns("a", "b")),
        pair_row("actor-1-d-0", SINGLE, rejected=[]),
        pair_row("actor-1-e-0", SINGLE, chosen=turns("a")),
    ]
    folder = exported(write_pairs(tmp_path / "pairs.parquet", rows), "openrlhf")
    assert [row["pair_id"] for row in rows_of(folder / "train.parquet")] == ["actor-1-a-0"]
    assert manifest(folder)["left_out"] == {
        "a member is not one assistant turn": 2,
        "the prompt does not end in a user turn": 2,
    }


def test_bad_input_is_told_in_a_sentence_and_nothing_is_left(run: Path, examples: Path, tmp_path: Path) -> None:
    only_judge = write_pairs(tmp_path / "judge.parquet", [pair_row(KEYS[2], MULTI)])
    unfit = write_pairs(tmp_path / "unfit.parquet", [pair_row(KEYS[0], [])])
    empty = write_pairs(tmp_path / "empty.parquet", [])
    write(frame(SCORES, []), tmp_path / "scores.parquet", SCORES, {})
    (tmp_path / "text.parquet").write_text("no table")
    (tmp_path / "begun/iter-1").mkdir(parents=True)
    before = sorted(tmp_path.iterdir())
    for words, expected in (
        ([tmp_path / "no"], "no: no such file or folder"),
        ([tmp_path / "no.parquet"], "no.parquet: no such file"),
        ([tmp_path], "not the folder of a run"),
        ([tmp_path / "text.parquet"], "not a readable Parquet file"),
        ([tmp_path / "scores.parquet"], "column 'pair_id' of table pairs is missing"),
        ([tmp_path / "begun"], "no iteration has pairs yet"),
        ([run, "--iteration", 3], "iteration 3 has no pairs; those that have: 1, 2"),
        ([run / "iter-2", "--iteration", 1], "iteration 1 has no pairs; those that have: 2"),
        ([only_judge, "--iteration", 1], "is one table"),
        ([only_judge, "--kind", "actor"], "judge.parquet: no actor pairs to export"),
        ([empty], "no pairs to export"),
        ([examples, "--kind", "actor"], "holds supervised examples"),
        ([unfit], "can hold none of 1 pairs: the prompt does not end in a user turn"),
    ):
        with pytest.raises(StageError, match=expected) as refused:
            export.main(export.parsed([*map(str, words), "--to", "trl", "--output", str(tmp_path / "out")]))
        assert "\n" not in str(refused.value)
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_overwritten_and_nothing_half_written_stays(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    words = [str(run), "--to", "trl", "--output"]
    export.main(export.parsed([*words, str(tmp_path / "empty")]))
    assert (tmp_path / "empty/train.parquet").exists()
    (tmp_path / "file").write_text("mine")
    for name in ("empty", "file"):
        with pytest.raises(StageError, match=f"{name}: exists already; nothing is overwritten"):
            export.main(export.parsed([*words, str(tmp_path / name)]))
    assert (tmp_path / "file").read_text() == "mine"
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(export, "write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export.main(export.parsed([*words, str(tmp_path / "out")]))
    assert sorted(tmp_path.iterdir()) == before


def test_an_export_that_comes_second_yields(tmp_path: Path) -> None:
    def late() -> None:
        with appearing(tmp_path / "out") as folder:
            (folder / "mine").touch()
            (tmp_path / "out").mkdir()
            (tmp_path / "out/theirs").touch()

    with pytest.raises(StageError, match="exists already"):
        late()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]


def test_the_same_pairs_give_the_same_bytes(run: Path) -> None:
    for layout in LAYOUTS:
        one, two = exported(run, layout), exported(run, layout)
        assert {path.relative_to(one): path.read_bytes() for path in one.rglob("*") if path.is_file()} == {
            path.relative_to(two): path.read_bytes() for path in two.rglob("*") if path.is_file()
        }


def test_the_program_ends_with_one_line(tmp_path: Path) -> None:
    for words, code, told in (
        (["nowhere", "--to", "trl", "--output", "o"], 1, "error: nowhere: no such file or folder\n"),
        (["a", "--to", "trl", "--output", "o", "--test-share", "2"], 1, "error: --test-share: "),
        (["a", "--to", "nobody", "--output", "o"], 2, "invalid choice: 'nobody'"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "stages.export", *words],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (code, "")
        assert told in done.stderr
        assert "Traceback" not in done.stderr


def test_the_commands_of_the_page_run_and_it_knows_every_layout(
    run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (ROOT / "docs/exporting.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    python -m stages.export (.*)$", page, re.MULTILINE)
    (tmp_path / "results").mkdir()
    (tmp_path / "results/tinyworld").symlink_to(run_directory)
    monkeypatch.chdir(tmp_path)
    for command in commands:
        export.main(export.parsed(command.split()))
    assert sorted(path.name for path in (tmp_path / "exports").iterdir()) == ["eft", "h4", "trl"]
    assert set(re.findall(r"^\| `(\w[\w-]+)` \|", page.partition("## Layouts")[2], re.MULTILINE)) == set(LAYOUTS)
    for layout in LAYOUTS.values():
        assert [name for form in layout.forms.values() for name in form.columns if f"`{name}`" not in page] == []
