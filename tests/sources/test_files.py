"""Files of rows: plain, packed and Parquet files give the same rows."""

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.contracts.errors import StageError
from stages.ingest import conversations
from stages.sources.chat_records import Conversation
from tests.support.records import turn, turns

PROMPT = [turn("system", "Be brief."), *turns("Hi", "Hello", "1+1?")]


def jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


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
    assert list(conversations(table)) == [
        (str(table), 1, Conversation([turn("system", "Be brief."), turn("user", "Hi")], None))
    ]
    pl.DataFrame({"text": ["Hi"]}).write_parquet(table)
    with pytest.raises(StageError, match=r"chat.parquet: none of the columns .* the file has \['text'\]"):
        list(conversations(table))
    pl.DataFrame({"prompt": ["Hi", None]}).write_parquet(table)
    with pytest.raises(StageError, match=r"chat.parquet: row 2: none of the fields"):
        list(conversations(table))
