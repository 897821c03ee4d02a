"""What TensorRT-LLM would make of a checkpoint's `config.json` without a word, checked before anything is loaded."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.contracts.errors import StageError
from stages.contracts.files import load_json
from stages.engines.trtllm_arguments import Release

_SCALED = ("linear", "dynamic")
"""Kinds of rotary scaling whose `max_position_embeddings` are those before scaling; others state those after it."""
_BASE = 10_000
"""The rotary base of a configuration that names none."""


def read_text_config(model: Path) -> dict[str, Any]:
    """`config.json` of a model directory, or the part of it that describes the language model."""
    config = load_json(model / "config.json", "a Hugging Face model directory is expected")
    return dict(config.get("text_config") or config)


def check_positions(model: Path, config: Mapping[str, Any], max_sequence_length: int) -> None:
    """StageError if the model has fewer positions than `max_sequence_length` (tokens), or would lose its rotary ones.

    The library would lower the length with a line in its log, and cut answers. And Transformers 4, which 1.0 to 1.2
    use, takes default positions where only `rope_parameters` of Transformers 5 describe them.
    """
    positions = model_positions(config)
    if positions is not None and positions < max_sequence_length:
        raise StageError(
            f"{model}: the model has {positions} positions; lower engine.max_sequence_length (now "
            f"{max_sequence_length})"
        )
    parameters = config.get("rope_parameters") or {}
    base_is_lost = parameters.get("rope_theta", _BASE) != config.get("rope_theta", _BASE)
    scaling_is_lost = parameters.get("rope_type", "default") != "default" and not config.get("rope_scaling")
    if base_is_lost or scaling_is_lost:
        raise StageError(
            f"{model / 'config.json'}: rope_parameters, which TensorRT-LLM does not read, say other rotary positions "
            "than rope_theta and rope_scaling: add these as well"
        )


def model_positions(config: Mapping[str, Any]) -> int | None:
    """Positions (tokens) that a Hugging Face configuration gives the model; None where it does not say."""
    positions = config.get("max_position_embeddings")
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = scaling.get("rope_type", scaling.get("type"))
    if positions is None or kind not in _SCALED:
        return positions
    return int(positions * scaling.get("factor", 1.0))


def weights_type(config: Mapping[str, Any], release: Release, dtype: str) -> str:
    """What `LLM` is told as `dtype`: the setting, but not `auto` where the library could not read it.

    Transformers 4.51 of 1.0 knows the stored type by its older name alone, `torch_dtype`.
    """
    if dtype == "auto" and release[:2] == (1, 0) and "torch_dtype" not in config:
        return str(config.get("dtype", "auto"))
    return dtype
