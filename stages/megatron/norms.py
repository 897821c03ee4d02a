"""Normalisation layers, holding their weights exactly as checkpoints store them.

Megatron's own need Apex or Transformer Engine for anything but a plain norm, and refuse sequence parallelism without.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from megatron.core.transformer.transformer_config import TransformerConfig


class RmsNorm(torch.nn.Module):
    """x / rms(x) * weight, over the last dimension."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float, **_: Any):
        super().__init__()
        self.eps = eps
        self.weight = torch.nn.Parameter(torch.empty(hidden_size))
        # Each rank normalises its share of the sequence; Megatron then adds the gradients up.
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [..., hidden]."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class RmsNormPlusOne(RmsNorm):
    """x / rms(x) * (1 + weight), in float32 (Gemma)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [..., hidden]."""
        return F.rms_norm(x.float(), self.weight.shape, 1 + self.weight.float(), self.eps).type_as(x)


class LayerNormPlusOne(RmsNorm):
    """(x - mean(x)) / std(x) * (1 + weight) + bias (Nemotron's LayerNorm1P)."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float, **_: Any):
        super().__init__(config, hidden_size, eps)
        self.bias = torch.nn.Parameter(torch.empty(hidden_size))
        self.bias.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden] -> [..., hidden]."""
        return F.layer_norm(x, self.weight.shape, 1 + self.weight, self.bias, self.eps)


NORMS = {"rms": RmsNorm, "rms_plus_one": RmsNormPlusOne, "layer_plus_one": LayerNormPlusOne}
