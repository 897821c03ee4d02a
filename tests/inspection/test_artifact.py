"""One artifact: what it is, what its columns hold, and files that are none."""

from pathlib import Path

import polars as pl
import pytest

from stages import tables
from stages.contracts.artifacts import write
from stages.contracts.errors import StageError
from stages.contracts.schema import frame
from stages.inspection.artifact import artifact, statistics
from stages.inspection.parquet import rows


def column(document: dict, name: str) -> dict:
    return next(one for one in document["columns"] if one["name"] == name)


def test_a_table_is_named_and_its_columns_described(inspected: Path) -> None:
    found = artifact(inspected / "iter-1/pair_ledger.parquet", 1)
    ledger = pl.read_parquet(inspected / "iter-1/pair_ledger.parquet")
    assert (found["kind"], found["table"], found["files"], found["rows"]) == ("artifact", "pair_ledger", 1, len(ledger))
    assert found["row"] == tables.PAIR_LEDGER.row
    assert found["key"] == ["kind", "prompt_id", "pair"]
    assert found["provenance"]["stage"] == "pairs"
    assert found["sample"] == ledger.head(1).to_dicts()
    for name, (dtype, meaning) in tables.PAIR_LEDGER.columns.items():
        assert (column(found, name)["type"], column(found, name)["meaning"]) == (dtype, meaning)
    counts = dict(ledger["reason"].value_counts().iter_rows())
    assert column(found, "reason")["counts"] == counts
    assert list(column(found, "reason")["counts"].values()) == sorted(counts.values(), reverse=True)
    assert column(found, "prompt_id")["distinct"] == ledger["prompt_id"].n_unique()
    assert "counts" not in column(found, "prompt_id")
    assert column(found, "pair") == {
        "name": "pair", "type": "int", "meaning": tables.PAIR_LEDGER.columns["pair"][1],
        "nulls": 0, "min": 0, "mean": ledger["pair"].mean(), "max": 2,
    }  # fmt: skip


def test_shards_are_one_table(inspected: Path) -> None:
    found = artifact(inspected / "iter-1/candidates", 0)
    assert (found["files"], found["rows"], found["sample"]) == (2, 160, [])
    assert column(found, "token_ids")["items"] == {"min": 10, "mean": 11.5, "max": 13}
    with pytest.raises(StageError, match=r"holds several tables \(battles, .*pairs, .*; name one of its files"):
        artifact(inspected / "iter-2", 0)


def test_statistics_by_type() -> None:
    data = pl.LazyFrame({
        "number": [1.0, 2.0, None, 6.0],
        "text": ["a" * 50, "b", "", None],
        "word": ["x", "y", "x", "x"],
        "flag": [True, False, True, None],
        "list": [[1, 2], [], None, [3]],
        "nothing": [None, None, None, None],
    })  # fmt: skip
    assert statistics(data) == {
        "number": {"nulls": 1, "min": 1.0, "mean": 3.0, "max": 6.0},
        "text": {"nulls": 1, "characters": {"min": 0, "mean": 17.0, "max": 50}},
        "word": {"nulls": 0, "distinct": 2, "counts": {"x": 3, "y": 1}, "characters": {"min": 1, "mean": 1, "max": 1}},
        "flag": {"nulls": 1, "distinct": 2, "counts": {"true": 2, "false": 1}},
        "list": {"nulls": 1, "items": {"min": 0, "mean": 1.0, "max": 2}},
        "nothing": {"nulls": 4},
    }


def test_an_empty_table_and_one_of_somebody_else(tmp_path: Path) -> None:
    write(frame(tables.SCORES, []), tmp_path / "empty.parquet", tables.SCORES, {})
    found = artifact(tmp_path / "empty.parquet", 3)
    assert (found["table"], found["rows"], found["sample"]) == ("scores", 0, [])
    assert column(found, "score")["min"] is None
    pl.DataFrame({"x": [1]}).write_parquet(tmp_path / "other.parquet")
    found = artifact(tmp_path / "other.parquet", 3)
    assert (found["table"], found["row"], found["key"], found["provenance"]) == (None, None, [], {})
    assert column(found, "x") == {
        "name": "x", "type": "int64", "meaning": None, "nulls": 0, "min": 1, "mean": 1.0, "max": 1,
    }  # fmt: skip


def test_what_is_no_artifact_is_refused_in_one_sentence(tmp_path: Path) -> None:
    text, torn, empty = tmp_path / "text.parquet", tmp_path / "torn.parquet", tmp_path / "empty"
    text.write_text("no table")
    write(frame(tables.SCORES, []), torn, tables.SCORES, {})
    torn.write_bytes(torn.read_bytes()[:-20])
    empty.mkdir()
    for path, words in (
        (tmp_path / "nowhere.parquet", "no such file"),
        (text, "not a readable Parquet file"),
        (torn, "not a readable Parquet file"),
        (empty, "no Parquet files in it"),
    ):
        with pytest.raises(StageError, match=f"{path.name}: {words}") as refused:
            artifact(path, 1)
        assert "\n" not in str(refused.value)


def test_damaged_pages_are_told(tmp_path: Path) -> None:
    path = tmp_path / "damaged.parquet"
    pl.DataFrame({"text": [f"number {i}" for i in range(5000)]}).write_parquet(path)
    whole = path.read_bytes()
    half = len(whole) // 2
    path.write_bytes(whole[:100] + b"\xff" * half + whole[100 + half :])
    with pytest.raises(StageError, match=r"damaged\.parquet: cannot be read: "):
        artifact(path, 1)


def test_columns_that_a_file_lacks_are_null(tmp_path: Path) -> None:
    old = tmp_path / "old.parquet"
    pl.DataFrame({"prompt_id": ["b", "a"], "score": [1.0, 2.0]}).write_parquet(old)
    found = rows([old], tables.SCORES, ["prompt_id", "score", "status"], pl.col("prompt_id") == "a")
    assert found.rows() == [("a", 2.0, None)]
    assert rows([], tables.SCORES, ["score"]).shape == (0, 1)


def test_shards_and_columns_of_other_types_are_told(tmp_path: Path) -> None:
    pl.DataFrame({"score": [1]}).write_parquet(tmp_path / "000.parquet")
    assert rows([tmp_path / "000.parquet"], tables.SCORES, ["score"])["score"].to_list() == [1.0]
    pl.DataFrame({"score": [["high"]]}).write_parquet(tmp_path / "001.parquet")
    with pytest.raises(StageError, match=r"001\.parquet: cannot be read"):
        rows([tmp_path / "001.parquet"], tables.SCORES, ["score"])
    with pytest.raises(StageError, match="cannot be read"):
        artifact(tmp_path, 1)
