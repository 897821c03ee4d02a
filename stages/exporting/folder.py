"""The folder of an export: it appears when it is complete."""

import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.contracts.errors import StageError
from stages.exporting.layouts import Row


def refuse_existing(output: Path) -> None:
    """StageError if something lies where the export is to appear; an empty folder may."""
    if output.is_dir() and not any(output.iterdir()):
        return
    if output.exists() or output.is_symlink():
        raise StageError(f"{output}: exists already; nothing is overwritten")


@contextmanager
def appearing(output: Path) -> Iterator[Path]:
    """A folder beside `output` to write into. It becomes `output` when all is written, and is removed else."""
    refuse_existing(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as beside:
        made = Path(beside) / "made"
        made.mkdir()
        yield made
        try:
            os.rename(made, output)
        except OSError:
            # Another export may have come first.
            refuse_existing(output)
            raise


def write_rows(path: Path, rows: Sequence[Row], columns: dict[str, pa.DataType]) -> None:
    """Rows as a file of the format that its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows), pa.schema(list(columns.items()))), path, compression="zstd")
    else:
        # In ASCII: some readers take signs such as U+2028 for the end of a line.
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="ascii")


def write_json(path: Path, value: Any) -> None:
    """A value as JSON, for people to read."""
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="ascii")


def dataset_info(files: dict[str, str], name: str) -> Row:
    """LLaMA-Factory's index of the files by split; the data sets are called `<name>_<split>`. Its own names of roles
    and texts are those of the ShareGPT form."""
    sides = {side: side for side in ("chosen", "rejected")} if name == "pairs" else {}
    about = {"formatting": "sharegpt", "ranking": bool(sides), "columns": {"messages": "conversations", **sides}}
    return {f"{name}_{split}": {"file_name": file, **about} for split, file in files.items()}
