"""What it costs to notice damage: reading a table and a model, with their digests checked and not.

.venv/bin/python -m benchmarks.damage_checks [--megabytes 256]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import polars as pl

from stages.contracts import artifacts, seals
from stages.contracts.schema import Table
from stages.model_files import manifest

TABLE = Table("texts", "a text", ("id",), {"id": ("int", "Key."), "text": ("str", "Text.")})
CHARACTERS = 2000
ROUNDS = 5


def table(folder: Path, megabytes: int) -> tuple[Path, pl.DataFrame]:
    """A table of so many megabytes on disk, of text that compresses to about a half, as hexadecimal digits do."""
    rows = megabytes * 2_000_000 // CHARACTERS
    texts = [os.urandom(CHARACTERS // 2).hex() for _ in range(rows)]
    return folder / "texts.parquet", pl.DataFrame({"id": range(rows), "text": texts})


def model(folder: Path, megabytes: int) -> Path:
    """A model's folder, with four files of weights."""
    folder.mkdir()
    for number in range(4):
        (folder / f"model-{number}.safetensors").write_bytes(os.urandom(megabytes * 250_000))
    manifest.write_manifest(folder)
    return folder


def seconds(work: Callable[[], object]) -> str:
    """Of the fastest of some rounds, wall and CPU."""
    rounds = []
    for _ in range(ROUNDS):
        seals._checked.cache_clear()
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        rounds.append((time.perf_counter() - wall, time.process_time() - cpu))
    return f"{min(wall for wall, _ in rounds):6.2f} s wall  {min(cpu for _, cpu in rounds):6.2f} s CPU"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    size = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as name:
        path, data = table(Path(name), size)
        weights = model(Path(name, "model"), size)
        artifacts.write(data, path, TABLE, {})
        print(f"a table of {path.stat().st_size >> 20} MiB, a model of {size * 1_000_000 >> 20} MiB")
        with patch.object(artifacts, "seal", lambda _: None):
            print("table written, not sealed ", seconds(lambda: artifacts.write(data, path, TABLE, {})))
        print("table written, sealed     ", seconds(lambda: artifacts.write(data, path, TABLE, {})))
        with patch.object(artifacts, "is_sealed", lambda _: True):
            print("table read, not checked   ", seconds(lambda: artifacts.read(path, TABLE)))
        print("table read, checked       ", seconds(lambda: artifacts.read(path, TABLE)))
        print("model's digest, checked   ", seconds(lambda: manifest.model_digest(weights)))


if __name__ == "__main__":
    main()
