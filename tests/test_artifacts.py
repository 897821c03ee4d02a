"""Tables are checked on write and on read, and replaced atomically."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.artifacts import Table, frame, provenance, read, write
from stages.errors import StageError

TABLE = Table(
    "things", "a thing", ("id",), {"id": ("str", "Key."), "size": ("int", "Size."), "note": ("str?", "Note.")}
)
ROWS = [{"id": "b", "size": 2, "note": None}, {"id": "a", "size": 1, "note": "x"}]


def test_rows_come_back_sorted_by_key_with_their_provenance(tmp_path):
    path = tmp_path / "deep" / "things.parquet"
    write(frame(TABLE, ROWS), path, TABLE, {"seed": 7})
    assert read(path, TABLE).rows() == [("a", 1, "x"), ("b", 2, None)]
    assert provenance(path) == {"seed": 7}
    assert pq.read_schema(path).field("size").metadata[b"description"] == b"Size."


def test_same_rows_give_the_same_bytes_whatever_their_order(tmp_path):
    for name, rows in (("one", ROWS), ("two", ROWS[::-1])):
        write(frame(TABLE, rows), tmp_path / name, TABLE, {"seed": 7})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "a", "size": None, "note": None}], "row 0: column 'size'"),
        ([*ROWS, {"id": "a", "size": 3, "note": None}], r"key \('a',\) of table things occurs twice"),
    ],
)
def test_a_bad_row_is_refused_and_nothing_is_overwritten(tmp_path, rows, message):
    path = tmp_path / "things.parquet"
    write(frame(TABLE, ROWS), path, TABLE, {})
    before = path.read_bytes()
    with pytest.raises(StageError, match=message):
        write(frame(TABLE, rows), path, TABLE, {})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["things.parquet"]


def test_a_missing_or_mistyped_column_is_named_with_its_file(tmp_path):
    path = tmp_path / "things.parquet"
    pq.write_table(pa.table({"id": pa.array(["a"], pa.large_string())}), path)
    with pytest.raises(StageError, match=r"things\.parquet: column 'size' of table things is missing"):
        read(path, TABLE)
    pq.write_table(pa.table({"id": pa.array([1])}), path)
    with pytest.raises(StageError, match="column 'id' of table things has type int64, expected large_string"):
        read(path, TABLE, ["id"])


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(StageError, match=r"absent\.parquet: no such file"):
        read(tmp_path / "absent.parquet", TABLE)
    (tmp_path / "text.parquet").write_text("not parquet")
    with pytest.raises(StageError, match=r"text\.parquet: not a readable Parquet file"):
        read(tmp_path / "text.parquet", TABLE)


def test_no_files_and_no_rows_keep_the_columns():
    assert read([], TABLE).columns == ["id", "size", "note"]
    assert frame(TABLE, []).height == 0
