"""Damaged files of a run: whichever bit is another, whoever reads the file is told, and which file it is."""

import os
import random
import re
import shutil
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

from stages.config import EngineSettings
from stages.contracts.artifacts import provenance, read, read_matching, stream, write
from stages.contracts.errors import StageError
from stages.contracts.schema import Table, frame
from stages.contracts.seals import TAIL
from stages.engines.resumable import Generator
from stages.inspection import parquet
from stages.inspection.artifact import TABLES
from stages.model_files.manifest import model_digest, write_manifest
from stages.training.task import TaskSettings, read_digests
from tests.support.workflow_run import ROOT

TABLE = Table("things", "a thing", ("id",), {"id": ("str", "Key."), "note": ("str?", "Note.")})
READERS = {
    "read": lambda path, table: read(path, table),
    "stream": lambda path, table: list(stream([path], table, list(table.columns))),
    "read_matching": lambda path, table: read_matching([path], table, ["id"], pl.DataFrame({"id": ["3"]}), ["id"]),
    "provenance": lambda path, _: provenance(path),
    "inspection": lambda path, table: parquet.rows([path], table),
}
FLIPS = 3
"""Random bits of each file of a run."""
ENDS_IN = "not a readable Parquet file|damaged, its bytes are not|not sealed, hence damaged"


def flip(path: Path, bit: int) -> None:
    """Another value of one bit."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    os.utime(path, ns=(bit, bit))  # within a clock's tick a file of the same size would be taken for the one before


def things(folder: Path) -> Path:
    """A small table."""
    path = folder / "things.parquet"
    write(frame(TABLE, [{"id": str(n), "note": "x" * n} for n in range(30)]), path, TABLE, {"seed": 7})
    return path


def test_single_bits_of_a_table_are_noticed(tmp_path: Path) -> None:
    """Wherever they are; all of those that end the file, where its footer is found by."""
    path = things(tmp_path)
    bits, missed = 8 * path.stat().st_size, []
    for bit in [*random.Random(0).sample(range(bits), 400), *range(bits - 8 * TAIL, bits)]:
        flip(path, bit)
        try:
            read(path, TABLE)
            missed.append(bit)
        except StageError as error:
            assert re.match(rf"{path}: ({ENDS_IN}).*type `rm {path}` and run snakemake again", str(error))  # noqa: PT017
        flip(path, bit)
    assert missed == []
    assert read(path, TABLE).height == 30


@pytest.mark.parametrize("reader", READERS)
def test_every_way_to_read_a_table_notices(reader: str, tmp_path: Path) -> None:
    path = things(tmp_path)
    READERS[reader](path, TABLE)
    flip(path, 8 * 100)
    with pytest.raises(StageError, match=rf"{path}: damaged"):
        READERS[reader](path, TABLE)


def test_a_table_that_lost_its_end_is_named(tmp_path: Path) -> None:
    path = things(tmp_path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        os.utime(path, ns=(length, length))
        with pytest.raises(StageError, match=rf"{path}: not a readable Parquet file"):
            read(path, TABLE)


def test_other_programs_read_a_sealed_table(tmp_path: Path) -> None:
    path = things(tmp_path)
    assert pl.read_parquet(path).equals(pl.from_arrow(pq.read_table(path)))


def test_tables_and_weights_are_opened_where_they_are_checked_alone() -> None:
    """And foreign data in `sources/`, models of a hub in `convert`; engines and ranks after `model_digest`."""
    opened = {
        r"read_parquet|scan_parquet|ParquetFile|read_schema|read_table": {
            "contracts/artifacts.py", "engines/journal.py", "inspection/parquet.py", "sources/files.py",
        },
        r"safe_open|load_file|from_pretrained|TensorFiles\(": {
            "convert.py", "engines/torch.py", "megatron/speed.py", "megatron/weights.py", "model_files/tensors.py",
        },
    }  # fmt: skip
    for pattern, places in opened.items():
        found = {
            str(path.relative_to(ROOT / "stages"))
            for path in (ROOT / "stages").rglob("*.py")
            if re.search(pattern, path.read_text(encoding="utf-8"))
        }
        assert found == places


@pytest.fixture
def damaged(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A model of a run with one other bit in its weights."""
    model = shutil.copytree(tiny_model_dir, tmp_path / "models/1")
    write_manifest(model)
    model_digest(model)
    flip(model / "model.safetensors", 8 * 5000 + 3)
    return model


TOLD = r"models/1/model\.safetensors: damaged, its content is not .*; type `rm .*models/1/manifest\.json` and run"


def test_generating_by_a_damaged_model_is_refused(damaged: Path) -> None:
    """Every stage that generates does so through a Generator."""
    with pytest.raises(StageError, match=TOLD):
        Generator(damaged, EngineSettings())


def test_training_a_damaged_model_or_with_a_damaged_reference_is_refused(damaged: Path, tiny_model_dir: Path) -> None:
    for models in ({"model": damaged}, {"model": tiny_model_dir, "reference_model": damaged}):
        with pytest.raises(StageError, match=TOLD):
            read_digests(TaskSettings(**models))


@pytest.mark.slow
def test_random_bits_of_every_file_of_a_run_are_noticed(first_iteration, tmp_path: Path) -> None:
    """Every table, and every file of every model, its manifest included."""
    chance, kinds = random.Random(0), set()
    for place in ("prompts", "eft", "iter-1", "models/0", "models/1"):
        left_out = shutil.ignore_patterns("tensorboard", "checkpoints", ".*")
        shutil.copytree(first_iteration.path / place, tmp_path / place, ignore=left_out)
    for path in sorted(path for path in tmp_path.rglob("*") if path.is_file()):
        table = TABLES[parquet.described(path).table] if path.suffix == ".parquet" else None
        kinds.add(table.name if table else path.name)
        for _ in range(FLIPS):
            bit = chance.randrange(8 * path.stat().st_size)
            flip(path, bit)
            with pytest.raises(StageError, match=re.escape(str(path))):
                _ = read(path, table) if table else model_digest(path.parent)
            flip(path, bit)
    assert len(kinds & set(TABLES)) >= 20
    assert {"manifest.json", "model.safetensors", "tokenizer.json", "config.json", "chat_template.jinja"} <= kinds
