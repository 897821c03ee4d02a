"""Files of rows: plain, packed and Parquet files give the same rows."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.contracts.errors import StageError
from stages.sources.chat_records import FIELDS, Conversation, parse
from stages.sources.files import Unusable, check_unusable, read_rows
from tests.support.records import turn, turns

PROMPT = [turn("system", "Be brief."), *turns("Hi", "Hello", "1+1?")]


def jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def conversations(path: Path, **options: Any) -> list[tuple[str, int, Conversation | Unusable]]:
    return list(read_rows(path, parse, FIELDS, "conversations", **options))


def test_parquet_and_gzip_equal_plain_jsonl(tmp_path: Path) -> None:
    records = [{"messages": [*PROMPT, turn("assistant", "2")]}, {"messages": [turn("user", "Größe?")]}]
    plain = jsonl(tmp_path / "chat.jsonl", *records)
    packed = tmp_path / "chat.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    table = tmp_path / "chat.parquet"
    pl.DataFrame(records).with_columns(unrelated=pl.lit(1)).write_parquet(table)
    expected = [(row, found) for _, row, found in conversations(plain)]
    assert [found for _, found in expected] == [Conversation(PROMPT, "2"), Conversation([turn("user", "Größe?")], None)]
    assert [(row, found) for _, row, found in conversations(packed)] == expected
    assert [(row, found) for _, row, found in conversations(table)] == expected


def test_parquet_with_a_prompt_column_or_with_wrong_columns(tmp_path: Path) -> None:
    table = tmp_path / "chat.parquet"
    pl.DataFrame({"prompt": ["Hi"], "system": ["Be brief."]}).write_parquet(table)
    assert conversations(table) == [
        (str(table), 1, Conversation([turn("system", "Be brief."), turn("user", "Hi")], None))
    ]
    pl.DataFrame({"text": ["Hi"]}).write_parquet(table)
    with pytest.raises(StageError, match=r"chat.parquet: none of the columns .* the file has \['text'\]"):
        conversations(table)


def test_a_json_list_a_byte_order_mark_and_lines_under_another_name_are_read(tmp_path: Path) -> None:
    expected = [(1, Conversation([turn("user", "Hi")], None)), (2, Conversation([turn("user", "1+1?")], "2"))]
    records = [{"prompt": "Hi"}, {"instruction": "1+1?", "input": "", "output": "2"}]
    lines = "".join(json.dumps(record) + "\n" for record in records).encode()
    for name, content in {
        "a.json": json.dumps(records, indent=1).encode(),
        "b.json": lines,
        "c.jsonl": b"\xef\xbb\xbf" + lines,
        "d.json": b"\xef\xbb\xbf" + json.dumps(records).encode(),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert [(row, found) for _, row, found in conversations(tmp_path / name)] == expected, name


def test_a_row_that_cannot_be_used_is_told_with_its_reason_and_the_next_is_read(tmp_path: Path) -> None:
    source = tmp_path / "chat.jsonl"
    source.write_bytes(b'{"prompt": "a"}\n{"prompt": \n\xff\n{"messages": null}\n{"prompt": "b"}\n')
    rows = {row: found for _, row, found in conversations(source)}
    assert [rows[row] for row in (1, 5)] == [Conversation([turn("user", text)], None) for text in "ab"]
    assert {row: found.detail for row, found in rows.items() if isinstance(found, Unusable)} == {
        2: "malformed JSON at character 13: Expecting value",
        3: "not UTF-8 (byte 1: invalid start byte)",
        4: "none of the fields 'conversations', 'conversation', 'messages', 'prompt', 'instruction' holds anything; "
        "found 'messages' (null)",
    }
    with pytest.raises(StageError, match=r"chat.jsonl: row 2: malformed JSON"):
        conversations(source, strict=True)


def test_the_gate_names_the_first_three() -> None:
    found = [("s", row, f"reason {row}") for row in (2, 3, 5, 8)]
    check_unusable(found, 400, 0.01, "ingest.max_bad_rows")
    with pytest.raises(StageError) as caught:
        check_unusable(found, 399, 0.01, "ingest.max_bad_rows")
    assert str(caught.value).startswith("s: row 2: reason 2; s: row 3: reason 3; s: row 5: reason 5. Of 399 rows, 4 ")
    assert "ingest.max_bad_rows (0.01)" in str(caught.value)
