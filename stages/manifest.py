"""`manifest.json`: says that a model directory is complete, and names its content by digest."""

import json
from pathlib import Path

from stages.artifacts import atomic, file_digest
from stages.ids import digest


def write_manifest(directory: Path) -> None:
    """List a complete model directory's files and their digests; the digest over them is the model's identity."""
    paths = sorted(p for p in directory.iterdir() if p.is_file() and p.name != "manifest.json" and p.name[0] != ".")
    files = {path.name: file_digest(path) for path in paths}
    with atomic(directory / "manifest.json") as partial:
        partial.write_text(json.dumps({"digest": digest(files), "files": files}, indent=1) + "\n")
