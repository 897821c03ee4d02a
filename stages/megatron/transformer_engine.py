"""Attention through Transformer Engine: one variable-length call for a whole pack, where PyTorch's takes one a block.

Which of the two a model gets is decided here, once for all of its layers. `auto` takes Transformer Engine's where

- it is installed, and there is a GPU;
- weights are in bfloat16: none of its kernels takes sequences of different lengths in float32;
- sequences are packed: padded rows are PyTorch's;
- the model does not cap attention scores (Gemma 2), which these kernels cannot do;
- it finds a kernel for the model's heads and windows on this GPU, which it is asked before the weights are loaded.
"""

import os
import sys
from typing import Any

import torch
from megatron.core.transformer.enums import AttnMaskType

from stages.config import MegatronSettings
from stages.contracts.errors import StageError
from stages.megatron.attention import EagerAttention, PackedAttention, join
from stages.model_files.families import Architecture
from stages.training.packing import Block, Packing


class TransformerEngineAttention(PackedAttention):
    """`PackedAttention` with Transformer Engine's kernels wherever there is a pack."""

    def __init__(self, config: Any, layer_number: int, attn_mask_type: AttnMaskType, **_: Any):
        from transformer_engine.pytorch import DotProductAttention

        super().__init__(config, layer_number, attn_mask_type)
        facts, ranks = config.architecture, config.tensor_model_parallel_size
        kernel = DotProductAttention(
            num_attention_heads=facts.heads // ranks,
            kv_channels=facts.head_dimension,
            num_gqa_groups=facts.groups // ranks,
            attention_dropout=0.0,
            qkv_format="thd",
            attn_mask_type="padding_causal_bottom_right",
            window_size=(self.window - 1 if self.window else -1, 0),  # keys before the query's own; -1: all
            attention_type="cross",  # there may be more keys than queries
            layer_number=layer_number,
            softmax_scale=self.softmax_scale,
        )
        # As a submodule it would put its FP8 state, of which there is none, into every checkpoint.
        self.kernels = (kernel,)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        packed_seq_params: Packing | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """query [s, b, heads, d], key and value [s, b, groups, d] -> [s, b, heads * d]; of a pack, b is 1."""
        if packed_seq_params is None:
            return super().forward(query, key, value, attention_mask)
        segments = packed_seq_params.segments
        if packed_seq_params.order is not None:
            key, value = join(key), join(value)
        if segments.gather is not None:
            key, value = (part.index_select(0, segments.gather) for part in (key, value))
        context: torch.Tensor = self.kernels[0](
            *(part.squeeze(1) for part in (query, key, value)),
            cu_seqlens_q=segments.query_starts,
            cu_seqlens_kv=segments.key_starts,
            max_seqlen_q=segments.longest_queries,
            max_seqlen_kv=segments.longest_keys,
        )
        return context.unsqueeze(1)


def check_attention(settings: MegatronSettings, model: Architecture) -> None:
    """StageError if Transformer Engine is asked for and ruled out; needs no GPU and loads nothing."""
    if settings.attention == "transformer_engine":
        _refuse(_obstacle(settings, model))


def core_attention(config: Any, settings: MegatronSettings, device: torch.device) -> type[PackedAttention]:
    """The attention of a model's layers; StageError if it cannot be the one that is asked for.

    `config` is the model's `ModelConfig`.
    """
    if settings.attention == "eager":
        return EagerAttention
    if settings.attention == "sdpa" or (settings.attention == "auto" and _obstacle(settings, config.architecture)):
        return PackedAttention
    refusal = _refusal(config, device)
    if settings.attention == "transformer_engine":
        _refuse(refusal)
    elif refusal:
        if os.environ.get("RANK", "0") == "0":
            print(f"megatron.attention: PyTorch's is used, for Transformer Engine says: {refusal}", file=sys.stderr)
        return PackedAttention
    return TransformerEngineAttention


def _obstacle(settings: MegatronSettings, facts: Architecture) -> str | None:
    """What rules Transformer Engine out whatever the GPU, or None."""
    if not _installed():
        return "it is not installed (pip install --no-build-isolation '.[train,gpu]')"
    if not torch.cuda.is_available():
        return "there is no GPU"
    if settings.dtype != "bfloat16":
        return f"megatron.dtype is {settings.dtype}, and it takes bfloat16"
    if not settings.packing:
        return "megatron.packing is off, and it takes packs"
    if facts.attention_softcap:
        return "it cannot cap attention scores, as this model does"
    return None


def _installed() -> bool:
    try:
        import transformer_engine.pytorch  # noqa: F401
    except ImportError:
        return False
    return True


def _refusal(config: Any, device: torch.device) -> str | None:
    """What Transformer Engine says against the model's attention on this GPU, or None: each kind of layer is tried, as
    head width, windows, the GPU, cuDNN and flash-attn all have their say in which kernels there are."""
    facts, ranks = config.architecture, config.tensor_model_parallel_size
    packing = Packing(torch.arange(64, device=device), (Block(slice(0, 64), (slice(0, 128),)),))
    query, key, value = (
        torch.zeros(tokens, 1, heads // ranks, facts.head_dimension, dtype=config.params_dtype, device=device)
        for tokens, heads in ((64, facts.heads), (128, facts.groups), (128, facts.groups))
    )
    for window in dict.fromkeys(facts.windows):
        layer = TransformerEngineAttention(config, facts.windows.index(window) + 1, AttnMaskType.causal)
        try:
            layer(query, key, value, None, packed_seq_params=packing)
        except ValueError as error:
            return str(error)
    return None


def _refuse(reason: str | None) -> None:
    if reason:
        raise StageError(
            f"megatron.attention: `transformer_engine` cannot be used: {reason}; `auto` goes without it where it must"
        )
