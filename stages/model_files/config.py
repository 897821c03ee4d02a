"""Hugging Face configurations that the trainer can follow. Imports neither torch nor Megatron."""

from pathlib import Path
from typing import Any

from stages.contracts.errors import StageError
from stages.model_files.families import architecture
from stages.prompting.chat import load_json


def read_config(model: Path) -> dict[str, Any]:
    """The `config.json` of a model directory; StageError if absent, malformed or asking for what is not supported."""
    path = model / "config.json"
    config = load_json(path, "a Hugging Face model directory is expected")
    try:
        architecture(config)
    except StageError as error:
        raise StageError(f"{path}: {error}") from error
    return config


def padded_vocabulary(vocabulary: int, tensor_parallel: int) -> int:
    """Rows of the embedding once it is split over `tensor_parallel` ranks: the next multiple."""
    return -(-vocabulary // tensor_parallel) * tensor_parallel
