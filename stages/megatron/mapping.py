"""Which part of which Hugging Face tensor a rank holds where: the whole correspondence, for loading and for saving.

A Megatron parameter is made of one or several Hugging Face tensors: query, key and value projections are interleaved
per query group, gate and up projections are stacked. A `Piece` is one tensor's part in one rank's parameter.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from megatron.core import parallel_state
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.transformer_layer import get_transformer_layer_offset

from stages.contracts.errors import StageError
from stages.model_files.families import Architecture

_VOCABULARY = ("embedding.word_embeddings", "output_layer")
"""Modules with a row for each token of the vocabulary; it may be padded to split over the ranks."""


@dataclass(frozen=True)
class Piece:
    """One Hugging Face tensor's part in one rank's parameter."""

    name: str
    shape: tuple[int, ...]
    """Of the whole tensor."""
    dimension: int | None
    """Along which the tensor-parallel ranks share it; None: each has all of it."""
    rank: int
    length: int
    """Size of each rank's part along `dimension`; of a padded vocabulary the last parts reach beyond the tensor."""
    view: torch.Tensor
    """The part, inside the parameter; its elements in the order of the tensor's."""

    def padded(self, parts: int = 1) -> list[int]:
        """Shape of `parts` ranks' parts together."""
        return [size if i != self.dimension else parts * self.length for i, size in enumerate(self.shape)]

    @property
    def bytes(self) -> int:
        """Size of the whole tensor, in the parameter's type."""
        return math.prod(self.shape) * self.view.itemsize

    def stretch(self) -> tuple[int, int]:
        """First and last (exclusive) index along `dimension` of what this rank holds of the tensor; may be empty."""
        if self.dimension is None:
            return 0, self.length
        end = self.shape[self.dimension]
        return min(self.rank * self.length, end), min((self.rank + 1) * self.length, end)


def pieces(chunks: Sequence[GPTModel], facts: Architecture) -> Iterator[Piece]:
    """All pieces of this rank's parameters, in the model's order; of the last stage's copy of a tied embedding too."""
    size, rank = parallel_state.get_tensor_model_parallel_world_size(), parallel_state.get_tensor_model_parallel_rank()
    for chunk in chunks:
        offset = get_transformer_layer_offset(chunk.config, vp_stage=chunk.vp_stage)
        for full_name, parameter in chunk.named_parameters():
            module, kind = full_name.rsplit(".", 1)
            sources = _sources(module, offset, facts)
            dimension = split_dimension(full_name)
            for source, view in zip(sources, _views(module, parameter.detach(), facts), strict=True):
                rest = parameter.shape[1:]
                shape = [view.numel() // rest.numel(), *rest]
                length = shape[dimension or 0]
                if dimension is not None:
                    shape[dimension] = facts.vocabulary if module in _VOCABULARY else length * size
                yield Piece(f"{source}.{kind}", tuple(shape), dimension, rank, length, view)


def split_dimension(name: str) -> int | None:
    """Dimension along which tensor-parallel ranks share a Megatron parameter; None if each has all of it."""
    module, kind = name.rsplit(".", 2)[-2:]
    if module in ("linear_qkv", "linear_fc1", "word_embeddings", "output_layer"):
        return 0
    return 1 if module in ("linear_proj", "linear_fc2") and kind == "weight" else None


def expected_names(facts: Architecture) -> set[str]:
    """Names of all Hugging Face tensors of a model."""
    outer = [source for module, source in _outer(facts).items() if not (facts.tied and module == "output_layer")]
    layers = [
        f"model.layers.{layer}.{source}"
        for layer in range(facts.layers)
        for sources in _layer(facts).values()
        for source in sources
    ]
    norm_bias = facts.family.norm == "layer_plus_one"
    biases = {"q_proj": facts.qkv_bias, "k_proj": facts.qkv_bias, "v_proj": facts.qkv_bias}
    biases |= {"o_proj": facts.projection_bias, **dict.fromkeys(("gate_proj", "up_proj", "down_proj"), facts.mlp_bias)}
    modules = [*outer, *layers]
    with_bias = [name for name in modules if biases.get(name.rsplit(".")[-1], norm_bias and "norm" in name)]
    return {f"{name}.weight" for name in modules} | {f"{name}.bias" for name in with_bias}


def _outer(facts: Architecture) -> dict[str, str]:
    """Megatron modules around the layers, and their Hugging Face names."""
    return {
        "embedding.word_embeddings": "model.embed_tokens",
        "decoder.final_layernorm": "model.norm",
        # With tied embeddings the last pipeline stage holds a copy of the embedding as its output layer.
        "output_layer": "model.embed_tokens" if facts.tied else "lm_head",
    }


def _layer(facts: Architecture) -> dict[str, list[str]]:
    """Megatron modules of a layer, and the Hugging Face ones that each is made of."""
    family = facts.family
    modules = {
        "input_layernorm": ["input_layernorm"],
        "self_attention.linear_qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "self_attention.linear_proj": ["self_attn.o_proj"],
        "pre_mlp_layernorm": ["pre_feedforward_layernorm" if family.gemma else "post_attention_layernorm"],
        "mlp.linear_fc1": ["mlp.gate_proj", "mlp.up_proj"] if family.gated else ["mlp.up_proj"],
        "mlp.linear_fc2": ["mlp.down_proj"],
    }
    if family.qk_norm:
        modules["self_attention.q_layernorm"] = ["self_attn.q_norm"]
        modules["self_attention.k_layernorm"] = ["self_attn.k_norm"]
    if family.gemma:
        modules["self_attention.linear_proj.post_norm"] = ["post_attention_layernorm"]
        modules["mlp.linear_fc2.post_norm"] = ["post_feedforward_layernorm"]
    return modules


def _sources(module: str, offset: int, facts: Architecture) -> list[str]:
    if module in (outer := _outer(facts)):
        return [outer[module]]
    match = re.fullmatch(r"decoder\.layers\.(\d+)\.(.+)", module)
    if match is None or match[2] not in (layer := _layer(facts)):
        raise StageError(f"no Hugging Face counterpart is known for Megatron module {module}")
    return [f"model.layers.{int(match[1]) + offset}.{source}" for source in layer[match[2]]]


def _views(module: str, parameter: torch.Tensor, facts: Architecture) -> Sequence[torch.Tensor]:
    """A parameter's parts, one for each tensor that it is made of."""
    rest = parameter.shape[1:]
    if module.endswith("linear_qkv"):
        queries = facts.heads // facts.groups
        grouped = parameter.view(-1, queries + 2, facts.head_dimension, *rest)
        return grouped.split([queries, 1, 1], dim=1)
    if module.endswith("linear_fc1") and facts.family.gated:
        return parameter.view(2, -1, *rest).unbind()
    return [parameter]
