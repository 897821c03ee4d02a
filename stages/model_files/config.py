"""The configuration of a model directory, read once. Imports neither torch nor Megatron."""

from pathlib import Path

from stages.contracts.errors import StageError
from stages.contracts.files import load_json
from stages.model_files.families import Architecture, architecture


def read_config(model: Path) -> Architecture:
    """What `config.json` of a model directory says; StageError if absent, malformed or asking for the unsupported."""
    path = model / "config.json"
    try:
        return architecture(load_json(path, "a Hugging Face model directory is expected"))
    except StageError as error:
        raise error if str(path) in str(error) else StageError(f"{path}: {error}") from error
