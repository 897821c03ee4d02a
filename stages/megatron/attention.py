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

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **_: Any
    ) -> torch.Tensor:
        """query [s, b, heads, d], key and value [s, b, groups, d] -> [s, b, heads * d]."""
        length, batch = query.shape[:2]
        query, key, value = (x.permute(1, 2, 0, 3) for x in (query, key, value))
        context = F.scaled_dot_product_attention(
            query,
            key,
            value,
            is_causal=True,
            scale=self.softmax_scale,
            enable_gqa=query.size(1) != key.size(1),
        )
        return context.permute(2, 0, 1, 3).reshape(length, batch, -1)
