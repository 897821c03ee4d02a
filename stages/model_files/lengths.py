"""Whether safetensors files are as long as they say. Reads their headers alone, and imports no torch."""

import json
from pathlib import Path

from stages.contracts.errors import StageError

PREFIX = 8
"""Bytes of the header's length, little-endian, that begin a file."""


def check_lengths(model: Path) -> None:
    """StageError naming a safetensors file of a directory that is cut short, longer than it says, or none at all."""
    for path in sorted(model.glob("*.safetensors")):
        try:
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(PREFIX), "little")
                header = json.loads(file.read(min(length, path.stat().st_size)))
            header.pop("__metadata__", None)
            expected = PREFIX + length + max((tensor["data_offsets"][1] for tensor in header.values()), default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise StageError(f"{path}: not a safetensors file, or its header is damaged; {_REMEDY}") from error
        if (found := path.stat().st_size) != expected:
            raise StageError(f"{path}: {found} bytes, but its header tells of {expected}; {_REMEDY}")


_REMEDY = "copy or download it again, and run the same command"
