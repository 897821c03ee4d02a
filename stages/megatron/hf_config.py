"""Hugging Face configurations that the trainer can follow. Imports neither torch nor Megatron."""

from pathlib import Path
from typing import Any

from stages.chat import load_json
from stages.errors import StageError

SUPPORTED = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")


def read_config(model: Path) -> dict[str, Any]:
    """The `config.json` of a model directory; StageError if absent, malformed or of an unsupported architecture."""
    path = model / "config.json"
    config = load_json(path, "a Hugging Face model directory is expected")
    architecture = (config.get("architectures") or ["unknown"])[0]
    if architecture not in SUPPORTED:
        raise StageError(f"{path}: architecture {architecture} is not supported; supported are {', '.join(SUPPORTED)}")
    return config
