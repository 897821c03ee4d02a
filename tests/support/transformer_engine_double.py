"""A strict double of `transformer_engine.pytorch.DotProductAttention` (2.x), as its sources document it.

It has those arguments of the library that sequences of different lengths need, by the same names and defaults, and
checks what the library checks; then it computes each sequence's attention plainly. Where the library's kernels would
read past an end, it fails. Unlike the library it runs on CPU tensors, and takes the types that it is told to take.
"""

import sys
import types
from typing import Any

import pytest
import torch

MASKS = (
    "no_mask",
    "padding",
    "causal",
    "padding_causal",
    "causal_bottom_right",
    "padding_causal_bottom_right",
    "arbitrary",
)
HALF = (torch.float16, torch.bfloat16)
"""What the library's kernels for `thd` take."""


class World:
    """Which types the kernels take, and how often they were called."""

    def __init__(self, dtypes: tuple[torch.dtype, ...] = HALF):
        self.dtypes = dtypes
        self.calls = 0


def attention_class(world: World) -> type[torch.nn.Module]:
    """The double's DotProductAttention."""

    class DotProductAttention(torch.nn.Module):
        def __init__(
            self,
            num_attention_heads: int,
            kv_channels: int,
            num_gqa_groups: int | None = None,
            attention_dropout: float = 0.0,
            qkv_format: str = "sbhd",
            attn_mask_type: str = "causal",
            window_size: tuple[int, int] | None = None,
            layer_number: int | None = None,
            attention_type: str = "self",
            softmax_scale: float | None = None,
        ):
            super().__init__()
            groups = num_gqa_groups or num_attention_heads
            assert num_attention_heads % groups == 0, "heads must be divisible by the number of GQA groups"
            assert attention_type in ("self", "cross"), f"attention_type {attention_type} not supported"
            assert attn_mask_type in MASKS, f"Attention mask type {attn_mask_type} is not supported!"
            assert attention_dropout == 0, "the double draws nothing"
            self.window = (-1, 0) if window_size is None else window_size
            assert self.window[0] >= -1, "window_size should be (-1, 0) or (>=0, 0) for a causal mask"
            assert self.window[1] == 0, "window_size should be (-1, 0) or (>=0, 0) for a causal mask"
            self.heads, self.groups, self.width = num_attention_heads, groups, kv_channels
            self.qkv_format, self.mask, self.attention_type = qkv_format, attn_mask_type, attention_type
            self.scale = kv_channels**-0.5 if softmax_scale is None else softmax_scale

        def get_extra_state(self) -> torch.Tensor:
            """The FP8 state, which makes every such module a part of the checkpoint."""
            return torch.empty(0, dtype=torch.uint8)

        def set_extra_state(self, state: Any) -> None:
            pass

        def forward(
            self,
            query_layer: torch.Tensor,
            key_layer: torch.Tensor,
            value_layer: torch.Tensor,
            attention_mask: torch.Tensor | None = None,
            qkv_format: str | None = None,
            cu_seqlens_q: torch.Tensor | None = None,
            cu_seqlens_kv: torch.Tensor | None = None,
            *,
            max_seqlen_q: int | None = None,
            max_seqlen_kv: int | None = None,
        ) -> torch.Tensor:
            world.calls += 1
            assert attention_mask is None, "the double reads cu_seqlens alone"
            assert (qkv_format or self.qkv_format) == "thd", "the double knows thd alone"
            assert "padding" in self.mask, "Attention mask type must be padding or padding_causal for qkv_format=thd!"
            assert self.mask == "padding_causal_bottom_right", "the double computes no other"
            self._check_tensors(query_layer, key_layer, value_layer)
            queries = _lengths(cu_seqlens_q, query_layer, max_seqlen_q)
            keys = _lengths(cu_seqlens_kv, key_layer, max_seqlen_kv)
            assert len(queries) == len(keys), "cu_seqlens_q and cu_seqlens_kv must both have shape [batch_size + 1]!"
            assert self.attention_type == "cross" or queries == keys, "self-attention has as many keys as queries"
            if max_seqlen_q > max_seqlen_kv or self.width % 8 or query_layer.dtype not in world.dtypes:
                raise ValueError("No dot product attention backend is available for the provided inputs.")
            parts = zip(query_layer.split(queries), key_layer.split(keys), value_layer.split(keys), strict=True)
            return torch.cat([self._attend(*part) for part in parts]).flatten(1)

        def _check_tensors(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
            assert query.dim() == key.dim() == value.dim() == 3, "must be 3D tensors when qkv_format = thd!"
            assert query.dtype == key.dtype == value.dtype, "Queries, keys and values must have the same data type!"
            assert key.shape == value.shape, "Keys and values must have the same sequence length and number of heads!"
            assert query.shape[1:] == (self.heads, self.width)
            assert key.shape[1:] == (self.groups, self.width)

        def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
            """One sequence: query [q, heads, d], key and value [k, groups, d], the last query beside the last key."""
            key, value = (part.repeat_interleave(self.heads // self.groups, dim=1) for part in (key, value))
            place = torch.arange(len(key) - len(query), len(key))[:, None] - torch.arange(len(key))
            seen = (place >= 0) & ((place <= self.window[0]) | (self.window[0] == -1))
            scores = torch.einsum("qhd,khd->hqk", query, key) * self.scale
            weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
            return torch.einsum("hqk,khd->qhd", weights, value)

    return DotProductAttention


def _lengths(starts: torch.Tensor | None, tokens: torch.Tensor, longest: int | None) -> list[int]:
    """The lengths between `starts`, which must be those of all tokens, none longer than is said."""
    assert starts is not None, "cu_seqlens_q and cu_seqlens_kv can not be None when qkv_format = thd!"
    assert starts.dtype == torch.int32, "cu_seqlens_q and cu_seqlens_q must both be in dtype torch.int32!"
    assert starts.dim() == 1, "cu_seqlens must have shape [batch_size + 1]!"
    assert starts.device == tokens.device
    lengths: list[int] = starts.diff().tolist()
    assert starts[0] == 0, "a sequence lies outside of the tokens"
    assert starts[-1] == len(tokens), "a sequence lies outside of the tokens"
    assert min(lengths) > 0, "a sequence is empty"
    assert isinstance(longest, int), "left out, it costs a synchronisation"
    assert max(lengths) <= longest, "a sequence is longer than is said"
    return lengths


def install(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Put the double in the place of `transformer_engine`."""
    module: Any = types.ModuleType("transformer_engine")
    module.pytorch = types.ModuleType("transformer_engine.pytorch")
    module.pytorch.DotProductAttention = attention_class(world)
    monkeypatch.setitem(sys.modules, "transformer_engine", module)
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", module.pytorch)
