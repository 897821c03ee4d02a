"""Files that a stage is given: by name, or by their folder."""

from pathlib import Path

import pytest

from stages.contracts import cli
from stages.contracts.files import parquet_files
from stages.rate import Args


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards, and what lies beside them: one that is being written, a journal, and what is no table."""
    shards = tmp_path / "shards"
    (shards / ".001.parquet.journal-a").mkdir(parents=True)
    for name in ("001.parquet", "000.parquet", ".002.parquet.partial", ".002.parquet", "notes.txt"):
        (shards / name).touch()
    return shards


def test_a_folder_stands_for_its_finished_files_in_order(folder: Path) -> None:
    both = [folder / "000.parquet", folder / "001.parquet"]
    assert parquet_files([folder]) == both
    assert parquet_files([folder / "notes.txt", folder]) == [folder / "notes.txt", *both]
    assert parquet_files([Path("missing.parquet")]) == [Path("missing.parquet")], "who opens it says so"
    assert parquet_files([]) == []


def test_a_stage_takes_files_or_their_folder(folder: Path) -> None:
    outputs = {"battles": "b.parquet", "ratings": "r.parquet", "votes": "v.parquet"}
    by_folder = cli.checked(Args, {"verdicts": [str(folder)], **outputs})
    by_name = cli.checked(Args, {"verdicts": [str(folder / "000.parquet"), str(folder / "001.parquet")], **outputs})
    assert by_folder == by_name


def test_a_folder_without_tables_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    flags = ["--verdicts", str(tmp_path / "empty"), "--votes", "v", "--battles", "b", "--ratings", "r"]
    with pytest.raises(SystemExit) as ended:
        cli.run(Args, lambda args: pytest.fail("not reached"), flags)
    assert f"error: --verdicts: {tmp_path / 'empty'}: no Parquet file is in this folder" in str(ended.value)
