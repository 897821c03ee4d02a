"""Causal attention through PyTorch's fused kernel, as a drop-in for Megatron's unfused core attention."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig


class SdpaCoreAttention(MegatronModule):  # type: ignore[misc]
    """`scaled_dot_product_attention` with a causal mask.

    Rows are padded on the right, so the causal mask alone keeps padding out of every real position's sight.
    """

    def __init__(self, config: TransformerConfig, layer_number: int, attn_mask_type: AttnMaskType, **_: Any):
        super().__init__(config=config)
        self.softmax_scale = config.softmax_scale
        self.window = config.architecture.windows[layer_number - 1]
        self.softcap = config.architecture.attention_softcap

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **_: Any
    ) -> torch.Tensor:
        """query [s, b, heads, d], key and value [s, b, groups, d] -> [s, b, heads * d]."""
        length, batch = query.shape[:2]
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        seen = visible(length, self.window, query.device) if self.window or self.softcap else None
        if self.softcap:
            context = _capped(query, key, value, seen, self.softmax_scale, self.softcap)
        else:
            context = F.scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=seen,
                is_causal=seen is None,
                scale=self.softmax_scale,
                enable_gqa=query.size(1) != key.size(1),
            )
        return context.permute(2, 0, 1, 3).reshape(length, batch, -1)


def visible(length: int, window: int | None, device: torch.device) -> torch.Tensor:
    """bool [length, length]: which keys (columns) a query (row) sees; the last `window` up to itself, or all."""
    positions = torch.arange(length, device=device)
    distance = positions[:, None] - positions
    return (distance >= 0) & (distance < (window or length))


def _capped(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, seen: Any, scale: float, softcap: float
) -> torch.Tensor:
    """Attention with soft-capped scores, which the fused kernel cannot do."""
    key, value = (x.repeat_interleave(query.size(1) // x.size(1), dim=1) for x in (key, value))
    scores = softcap * torch.tanh(query @ key.transpose(-1, -2) * scale / softcap)
    return scores.masked_fill(~seen, -torch.inf).softmax(-1, dtype=torch.float32).to(value.dtype) @ value
