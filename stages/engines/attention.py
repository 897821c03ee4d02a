"""Attention in parts: what queries read from some keys, and how parts become what they would read from all at once.

Pure functions on tensors. Parts are weighted by the sums of their weights' exponentials, whose logs come with them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

_FUSED = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""The kernel behind `scaled_dot_product_attention`, which keeps the logs to itself."""


class Shape(NamedTuple):
    """How a layer makes weights of scores."""

    scale: float
    softcap: float | None
    """c: scores s become c tanh(s / c)."""
    window: int | None
    """Positions that a query sees, itself included; None: all before it."""


class Read(NamedTuple):
    """What queries read from some keys: states [..., head_dim]; logs [...] of the sum of exponential scores."""

    states: Tensor
    logs: Tensor


def read(query: Tensor, keys: Tensor, values: Tensor, shape: Shape, hidden: Tensor | None = None) -> Read:
    """Attention of [n, groups, queries, head_dim] over [n, groups, keys, head_dim], less those that are hidden (bool
    [n or 1, 1, queries or 1, keys]). The window is not looked at."""
    lowest = torch.finfo(query.dtype).min  # not -inf: who sees nothing here would read NaN
    mask = None if hidden is None else torch.zeros_like(hidden, dtype=query.dtype).masked_fill_(hidden, lowest)
    if query.device.type == "cpu" and shape.softcap is None:
        if mask is not None:
            mask = mask.expand(len(query), 1, query.shape[2], -1)
        return Read(*_FUSED(query, keys, values, 0.0, False, attn_mask=mask, scale=shape.scale))
    scores = _scores(query @ keys.transpose(-1, -2), shape)
    scores = scores if mask is None else scores + mask
    logs = scores.logsumexp(dim=-1)
    return Read((scores - logs[..., None]).exp().to(values.dtype) @ values, logs)


def merge(reads: Sequence[Read]) -> Tensor:
    """What would have been read from all keys at once."""
    weights = torch.stack([part.logs for part in reads]).softmax(dim=0)
    states = [part.states * weight[..., None] for part, weight in zip(reads, weights, strict=True)]
    return torch.stack(states).sum(dim=0).to(reads[0].states.dtype)


def causal(query: Tensor, keys: Tensor, values: Tensor, shape: Shape) -> Tensor:
    """Queries of the last tokens of a sequence, [q, heads, head_dim], over all of it, [k, groups, head_dim]."""
    asked, known, groups = len(query), len(keys), keys.shape[1]
    at = torch.arange(known, device=keys.device)
    distance = at[known - asked :, None] - at
    visible = distance >= 0 if shape.window is None else (distance >= 0) & (distance < shape.window)
    if shape.softcap is None:
        whole = asked == known and shape.window is None
        q, k, v = (states.transpose(0, 1)[None] for states in (query, keys, values))
        mask = None if whole else visible
        found = scaled_dot_product_attention(q, k, v, mask, is_causal=whole, scale=shape.scale, enable_gqa=True)
        return found[0].transpose(0, 1)
    scores = torch.einsum("qgrd,kgd->grqk", query.unflatten(1, (groups, -1)), keys)
    weights = _scores(scores, shape).masked_fill(~visible, -torch.inf).softmax(dim=-1).to(query.dtype)
    return torch.einsum("grqk,kgd->qgrd", weights, values).flatten(1, 2)


def _scores(products: Tensor, shape: Shape) -> Tensor:
    """Float32 scores of products of queries and keys."""
    scores = products.float() * shape.scale
    return scores if shape.softcap is None else torch.tanh(scores / shape.softcap) * shape.softcap
