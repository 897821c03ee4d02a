"""A full disk, and a folder that is not to be written to: one line says so, nothing is left, and the rerun is right."""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import polars as pl
import pytest

from stages import tables
from stages.config import EngineSettings, Sampling
from stages.contracts.artifacts import read, write
from stages.contracts.errors import StageError
from stages.contracts.schema import Table, frame
from stages.engines import journal, resumable
from tests.support.fake_engine import FakeEngine
from tests.support.tiny_model import write_tokenizer
from tests.support.workflow_run import GUARD, NO_EFT, ROOT, Run

TABLE = Table("things", "a thing", ("id",), {"id": ("str", "Key."), "note": ("str", "Note.")})
FULL = (
    r"cannot be written: No space left on device; free space on that disk \(`df -h`\), and run the same command again"
)
READ_ONLY = r"cannot be written: Read-only file system; make its folder writable, and run the same command again"


class Disk:
    """A file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.path], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """One of 64 KiB. Mounting takes a root who may mount; containers often have none."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a small file system: {mounted.stderr.strip()}")
    yield Disk(folder)
    subprocess.run(["umount", folder], check=True)


def things() -> pl.DataFrame:
    """Rows that no compression makes fit."""
    chance = random.Random(0)
    return frame(TABLE, [{"id": f"{n:04}", "note": chance.randbytes(200).hex()} for n in range(1000)])


def test_a_table_on_a_full_disk_is_named_and_leaves_nothing(disk: Disk) -> None:
    path = disk.path / "folder/things.parquet"
    with pytest.raises(StageError, match=rf"{path}: {FULL}"):
        write(things(), path, TABLE, {})
    assert list(path.parent.iterdir()) == []
    disk.remount("size=4m")
    write(things(), path, TABLE, {})
    assert read(path, TABLE).equals(things())


def test_the_table_that_was_there_stays(disk: Disk) -> None:
    path = disk.path / "things.parquet"
    write(things().head(10), path, TABLE, {})
    with pytest.raises(StageError, match=FULL):
        write(things(), path, TABLE, {})
    assert read(path, TABLE).equals(things().head(10))


def test_a_folder_that_is_read_only_is_named(disk: Disk) -> None:
    disk.remount("ro")
    for path in (disk.path / "things.parquet", disk.path / "new/things.parquet"):
        with pytest.raises(StageError, match=rf"{path}: {READ_ONLY}"):
            write(things(), path, TABLE, {})


def test_generation_on_a_full_disk_keeps_what_was_journalled(disk: Disk, tmp_path: Path) -> None:
    """With room, the rest is asked for, and each request has one completion: that of an undisturbed disk."""
    write_tokenizer(tmp_path)
    asked = pl.DataFrame({"request_id": [f"r{n:03}" for n in range(200)], "seed": range(200)})
    asked = asked.with_columns(prompt_token_ids=pl.lit([7]))

    def generate(output: Path) -> tuple[pl.DataFrame, int]:
        engine = FakeEngine(lambda request: random.Random(request.seed).randbytes(300).hex())
        with (
            patch.object(resumable, "open_engine", lambda *_: engine),
            patch.object(journal, "CHUNK_ROWS", 40),
            resumable.Generator(tmp_path, EngineSettings(max_sequence_length=4096)) as generator,
        ):
            return generator.complete(asked, Sampling(max_tokens=700), output), len(engine.asked)

    with pytest.raises(StageError, match=rf"part-00001\.parquet: {FULL}"):
        generate(disk.path / "out.parquet")
    disk.remount("size=4m")
    resumed, number = generate(disk.path / "out.parquet")
    assert number == 160
    assert resumed.equals(generate(tmp_path / "out.parquet")[0])


@pytest.mark.slow
def test_a_run_tells_of_a_full_disk_and_goes_on_when_there_is_room(disk: Disk, tmp_path: Path) -> None:
    """Before its first job, where not even a log could be written; then in a job; then it goes through."""
    run = Run(tmp_path, NO_EFT)
    run.config["run"]["results"] = str(disk.path)
    pool = disk.path / "quick/prompts/pool.parquet"

    def told() -> str:
        command = run.command("--", str(pool))
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **GUARD}, capture_output=True, text=True, check=False
        )
        return done.stderr if done.returncode else ""

    (disk.path / "filler").write_bytes(bytes(shutil.disk_usage(disk.path).free))
    assert "quick/.run.lock: cannot be written: No space left on device; free space" in told()
    (disk.path / "filler").write_bytes(bytes(24 << 10))
    assert f"error: {pool}: cannot be written: No space left on device; free space" in told()
    assert list(disk.path.rglob("*.p*")) == []
    disk.remount("size=4m")
    assert told() == ""
    assert read(pool, tables.PROMPTS).height == 2400
    disk.remount("ro")
    pool = disk.path / "quick/iter-1/prompts.parquet"
    assert "quick/.run.lock: cannot be written: Read-only file system; make its folder writable" in told()
