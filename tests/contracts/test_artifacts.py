"""Tables are checked on write and on read, and replaced atomically."""

import itertools
import os
from unittest import mock

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.contracts import artifacts
from stages.contracts.artifacts import Writer, provenance, read, stream, write
from stages.contracts.errors import StageError
from stages.contracts.files import atomic
from stages.contracts.schema import Table, frame

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


def test_a_replaced_file_has_the_mode_of_a_new_one_however_it_was_written(tmp_path):
    with atomic(tmp_path / "file") as partial:
        os.close(os.open(partial, os.O_CREAT | os.O_WRONLY, 0o600))
    (tmp_path / "new").touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "new").stat().st_mode


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


GROUPED = Table(
    "grouped", "one row", ("group", "number"), {"group": ("str", "."), "number": ("int", "."), "text": ("str?", ".")}
)


@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 3)), max_size=40),
    st.sampled_from([1, 2, 7]),
    st.sampled_from([1, 3, 50]),
)
def test_a_stream_merges_files_into_whole_groups_in_order(tmp_path_factory, rows, stream_rows, row_group):
    """`rows` are (group, file); whatever lies in which file, the pieces are the same rows, each group in one piece."""
    folder = tmp_path_factory.mktemp("stream")
    paths = [folder / f"{number}.parquet" for number in range(4)]
    table = frame(GROUPED, [{"group": f"{g}", "number": n, "text": f"{f}"} for n, (g, f) in enumerate(rows)])
    with mock.patch.multiple(artifacts, STREAM_ROWS=stream_rows, ROW_GROUP=row_group):
        for number, path in enumerate(paths):
            write(table.filter(pl.col("text") == str(number)), path, GROUPED, {})
        pieces = list(stream(paths, GROUPED, ["group", "number", "text"]))
    assert pl.concat([table.clear(), *pieces]).sort("group", "number").equals(table.sort("group", "number"))
    ends = [(piece["group"].min(), piece["group"].max()) for piece in pieces]
    assert all(before[1] < after[0] for before, after in itertools.pairwise(ends))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6))
def test_pieces_do_not_change_the_bytes_of_a_file(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("pieces")
    table = frame(GROUPED, [{"group": "g", "number": n, "text": None} for n in range(sum(sizes))])
    with mock.patch.object(artifacts, "ROW_GROUP", 7):
        write(table, folder / "whole.parquet", GROUPED, {})
        with Writer(folder / "pieces.parquet", GROUPED, {}) as writer:
            for end, size in zip(itertools.accumulate(sizes), sizes, strict=True):
                writer.write(table.slice(end - size, size))
    assert (folder / "whole.parquet").read_bytes() == (folder / "pieces.parquet").read_bytes()


def test_a_piece_that_does_not_follow_the_last_one_is_refused_and_nothing_is_written(tmp_path):
    table = frame(GROUPED, [{"group": "g", "number": n, "text": None} for n in range(4)])

    def write_out_of_order():
        with Writer(tmp_path / "t.parquet", GROUPED, {}) as writer:
            writer.write(table.tail(2))
            writer.write(table.head(2))

    with pytest.raises(StageError, match=r"key \('g', 0\) of table grouped does not follow \('g', 3\)"):
        write_out_of_order()
    assert list(tmp_path.iterdir()) == []
