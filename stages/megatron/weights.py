"""Hugging Face safetensors to and from a rank's Megatron shard.

Each Megatron parameter is made of one or several Hugging Face tensors: the query/key/value projections are
interleaved per query group, the gate and up projections are stacked. `_LAYER` and `_OUTER` are the whole mapping.
Loading opens one tensor at a time and keeps this rank's slice; saving lets the ranks of each pipeline stage gather
one parameter at a time, and the first of them writes that stage's file.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stages.artifacts import atomic
from stages.errors import StageError
from stages.manifest import write_manifest

_LAYER = {
    "input_layernorm.weight": ["input_layernorm.weight"],
    "self_attention.linear_qkv.weight": [
        "self_attn.q_proj.weight",
        "self_attn.k_proj.weight",
        "self_attn.v_proj.weight",
    ],
    "self_attention.linear_qkv.bias": ["self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"],
    "self_attention.linear_proj.weight": ["self_attn.o_proj.weight"],
    "self_attention.q_layernorm.weight": ["self_attn.q_norm.weight"],
    "self_attention.k_layernorm.weight": ["self_attn.k_norm.weight"],
    "pre_mlp_layernorm.weight": ["post_attention_layernorm.weight"],
    "mlp.linear_fc1.weight": ["mlp.gate_proj.weight", "mlp.up_proj.weight"],
    "mlp.linear_fc2.weight": ["mlp.down_proj.weight"],
}
_OUTER = {
    "embedding.word_embeddings.weight": "model.embed_tokens.weight",
    "decoder.final_layernorm.weight": "model.norm.weight",
    "output_layer.weight": "lm_head.weight",
}
_CARRIED = ("config.json", "generation_config.json", "*.jinja", "tokenizer*", "special_tokens_map.json", "*.model")


def load(model: GPTModel, directory: Path, hf: dict[str, Any]) -> None:
    """Fill the model from a directory of safetensors; StageError names a missing, misshapen or unreadable tensor."""
    files = _tensor_files(directory)
    model = model[0]
    for name, parameter in model.named_parameters():
        sources = hf_names(name, model, bool(hf.get("tie_word_embeddings")))
        parts = [_read_tensor(files, source, directory) for source in sources]
        full = _merge(name, parts, hf)
        shard = _shard(name, full, parameter)
        if shard.shape != parameter.shape:
            raise StageError(
                f"{files[sources[0]]}: {sources} give shape {tuple(shard.shape)}, but config.json asks for "
                f"{tuple(parameter.shape)}"
            )
        with torch.no_grad():
            parameter.copy_(shard)


def save(model: GPTModel, directory: Path, hf: dict[str, Any], source: Path) -> None:
    """Write the model as a Hugging Face directory, with tokenizer, templates and configuration of `source`.

    `manifest.json` is written last: where it is, the model is complete. Its digest names weights and tokenizer.
    """
    model = model[0]
    tensors = dict(_gathered(model, hf))
    if torch.distributed.get_rank() == 0:  # of an earlier try, perhaps with other files
        for old in [*directory.glob("manifest.json"), *directory.glob("*.safetensors*")]:
            old.unlink()
    torch.distributed.barrier()
    stage, stages = (
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_pipeline_model_parallel_world_size(),
    )
    name = "model.safetensors" if stages == 1 else f"model-{stage + 1:05d}-of-{stages:05d}.safetensors"
    if parallel_state.get_data_parallel_rank() == 0 and parallel_state.get_tensor_model_parallel_rank() == 0:
        with atomic(directory / name) as partial:
            save_file(tensors, partial, metadata={"format": "pt"})
    index: list[dict[str, str] | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(index, dict.fromkeys(tensors, name))
    if torch.distributed.get_rank() == 0:
        if stages > 1:
            weight_map = {key: file for part in index if part for key, file in part.items()}
            (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        carry(source, directory)
        _set_dtype(directory, next(iter(tensors.values())).dtype)
        write_manifest(directory)
    torch.distributed.barrier()


def carry(source: Path, directory: Path) -> None:
    """Copy tokenizer, chat template and configuration files unchanged."""
    for pattern in _CARRIED:
        for path in source.glob(pattern):
            shutil.copyfile(path, directory / path.name)


def hf_names(name: str, model: GPTModel, tied: bool) -> list[str]:
    """Hugging Face tensors that make up a Megatron parameter of this pipeline stage."""
    if name in _OUTER:
        # With tied embeddings the last pipeline stage holds a copy of the embedding as its output layer.
        return [_OUTER["embedding.word_embeddings.weight" if tied and name == "output_layer.weight" else name]]
    match = re.fullmatch(r"decoder\.layers\.(\d+)\.(.+)", name)
    if match is None or match[2] not in _LAYER:
        raise StageError(f"no Hugging Face counterpart is known for Megatron parameter {name}")
    layer = int(match[1]) + get_transformer_layer_offset(model.config)
    return [f"model.layers.{layer}.{part}" for part in _LAYER[match[2]]]


def _merge(name: str, parts: list[torch.Tensor], hf: dict[str, Any]) -> torch.Tensor:
    if "linear_qkv" not in name:
        return parts[0] if len(parts) == 1 else torch.stack(parts)
    groups = hf.get("num_key_value_heads") or hf["num_attention_heads"]
    return torch.cat([part.view(groups, -1, *part.shape[1:]) for part in parts], dim=1).flatten(0, 1)


def _split(name: str, full: torch.Tensor, hf: dict[str, Any]) -> list[torch.Tensor]:
    if "linear_fc1" in name:
        return list(full)
    if "linear_qkv" not in name:
        return [full]
    groups = hf.get("num_key_value_heads") or hf["num_attention_heads"]
    queries = hf["num_attention_heads"] // groups
    grouped = full.view(groups, queries + 2, -1, *full.shape[1:])
    return [grouped[:, part].flatten(0, 2) for part in (slice(0, queries), slice(queries, -1), slice(-1, None))]


def _shard(name: str, full: torch.Tensor, parameter: torch.nn.Parameter) -> torch.Tensor:
    rank, size = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_tensor_model_parallel_world_size()
    if "linear_fc1" in name:  # [2, ffn, hidden]: gate and up are split alike, each rank stacks its two pieces
        return full.chunk(size, dim=1)[rank].flatten(0, 1)
    if not getattr(parameter, "tensor_model_parallel", False):
        return full
    return full.chunk(size, dim=_split_dimension(parameter))[rank]


def _gathered(model: GPTModel, hf: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Full Hugging Face tensors of this pipeline stage, one Megatron parameter at a time."""
    tied = bool(hf.get("tie_word_embeddings"))
    size, group = (
        parallel_state.get_tensor_model_parallel_world_size(),
        parallel_state.get_tensor_model_parallel_group(),
    )
    for name, parameter in model.named_parameters():
        if tied and name == "output_layer.weight":
            continue
        full = parameter.detach()
        split = getattr(parameter, "tensor_model_parallel", False)
        shards = [full]
        if split and size > 1:
            shards = [torch.empty_like(full) for _ in range(size)]
            torch.distributed.all_gather(shards, full.contiguous(), group=group)
        if "linear_fc1" in name:
            full = torch.cat([shard.view(2, -1, *shard.shape[1:]) for shard in shards], dim=1)
        elif split:
            full = torch.cat(shards, dim=_split_dimension(parameter))
        for target, tensor in zip(hf_names(name, model, tied), _split(name, full, hf), strict=True):
            yield target, tensor.cpu().contiguous().clone()


def _split_dimension(parameter: torch.nn.Parameter) -> int:
    return int(getattr(parameter, "partition_dim"))  # noqa: B009 (Megatron's own attribute, unknown to type checkers)


def _tensor_files(directory: Path) -> dict[str, Path]:
    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise StageError(f"{directory}: no *.safetensors file; only safetensors weights are read")
    files = {}
    for path in paths:
        try:
            with safe_open(path, "pt") as handle:
                files.update(dict.fromkeys(handle.keys(), path))
        except SafetensorError as error:
            raise StageError(f"{path}: not a readable safetensors file: {error}") from error
    return files


def _read_tensor(files: dict[str, Path], name: str, directory: Path) -> torch.Tensor:
    if name not in files:
        raise StageError(f"{directory}: tensor {name} is missing from the safetensors files")
    with safe_open(files[name], "pt") as handle:
        tensor: torch.Tensor = handle.get_tensor(name)
    if not torch.isfinite(tensor).all():
        raise StageError(f"{files[name]}: tensor {name} holds NaN or infinite values")
    return tensor


def _set_dtype(directory: Path, dtype: torch.dtype) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config.pop("torch_dtype", None)
    config["dtype"] = str(dtype).removeprefix("torch.")
    path.write_text(json.dumps(config, indent=2) + "\n")
