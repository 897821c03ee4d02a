"""Causal attention over packed sequences through PyTorch's fused kernels, as a drop-in for Megatron's core attention.

Each block of queries attends to its own keys alone, so that nothing is computed for pairs of tokens that do not see
each other. Under context parallelism each rank holds the queries of a part of the pack and gathers all keys and values.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from megatron.core import parallel_state
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule

from stages.megatron.logprobs import capped
from stages.training.packing import Block, Packing


class PackedAttention(MegatronModule):  # type: ignore[misc]
    """`scaled_dot_product_attention` on every block of a pack; on padded rows, where there is no pack, on all rows.

    Rows are padded on the right, so the causal mask alone keeps padding out of every real position's sight.
    """

    fused = True

    def __init__(self, config: Any, layer_number: int, attn_mask_type: AttnMaskType, **_: Any):
        super().__init__(config=config)
        facts = config.architecture
        self.softmax_scale = config.softmax_scale or facts.head_dimension**-0.5
        self.softcap = facts.attention_softcap
        self.window = facts.windows[layer_number - 1]

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: Any,
        packed_seq_params: Packing | None = None,
        **_: Any,
    ) -> torch.Tensor:
        """query [s, b, heads, d], key and value [s, b, groups, d] -> [s, b, heads * d]."""
        length, batch = query.shape[:2]
        packing = packed_seq_params or Packing(torch.arange(length), (Block(slice(0, length), (slice(0, length),)),))
        if packing.order is not None:
            key, value = (join(part).index_select(0, packing.order) for part in (key, value))
        queries = Pieces(query, [block.queries for block in packing.blocks])
        keys, values = (Pieces(part, [one for block in packing.blocks for one in block.keys]) for part in (key, value))
        context = [
            self._attend(queries.of([block.queries]), keys.of(block.keys), values.of(block.keys), packing)
            for block in packing.blocks
        ]
        return torch.cat(context, dim=2).permute(2, 0, 1, 3).reshape(length, batch, -1)

    def _attend(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, packing: Packing) -> torch.Tensor:
        # A window that reaches back to the first key is none.
        window = self.window if self.window and self.window < key.size(2) else None
        square = query.size(2) == key.size(2) and not window
        if self.softcap or not self.fused:
            mask = _mask(query, key, window, packing.masks, named=False)
            return _by_formula(query, key, value, mask, self.softmax_scale, self.softcap)
        return F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if square else _mask(query, key, window, packing.masks, named=query.is_cuda),
            is_causal=square,
            scale=self.softmax_scale,
            enable_gqa=query.size(1) != key.size(1),
        )


class Pieces:
    """A tensor [s, b, heads, d] cut once at all ends of the slices (of s) that will be asked for.

    Cut at once, the gradients of all pieces are joined by one concatenation; those of as many slices would each be a
    whole tensor of zeros, to be added up: work that grows with the square of the sequences in a pack.
    """

    def __init__(self, whole: torch.Tensor, slices: Sequence[slice]):
        ends = {0, len(whole), *(end for one in slices for end in (one.start, one.stop))}
        self._cuts = sorted(ends)
        self._pieces = whole.permute(1, 2, 0, 3).split([stop - start for start, stop in pairwise(self._cuts)], dim=2)

    def of(self, slices: Sequence[slice]) -> torch.Tensor:
        """The slices, one after the other: [b, heads, their length, d]."""
        at = self._cuts.index
        pieces = [piece for one in slices for piece in self._pieces[at(one.start) : at(one.stop)]]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


class EagerAttention(PackedAttention):
    """The same by the formula, with the scores of a whole block in memory."""

    fused = False


def _mask(
    query: torch.Tensor, key: torch.Tensor, window: int | None, known: dict[Any, torch.Tensor], named: bool
) -> torch.Tensor:
    """To be added to scores [queries, keys]: the last query sees all keys (of `window` the last ones), each query
    before it one key less. `named`: as an object that CUDA kernels know without looking at its values."""
    shape = (query.size(2), key.size(2))
    if (shape, window) not in known:
        if named and not window:
            from torch.nn.attention.bias import causal_lower_right  # loads PyTorch's compiler: half a second

            known[shape, window] = causal_lower_right(*shape)
        else:
            last = torch.arange(shape[1] - shape[0], shape[1], device=query.device)[:, None]
            distance = last - torch.arange(shape[1], device=query.device)
            seen = (distance >= 0) & (distance < (window or shape[1]))
            mask = torch.zeros(shape, dtype=query.dtype, device=query.device)
            known[shape, window] = mask.masked_fill(~seen, -torch.inf)
    return known[shape, window]


def _by_formula(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, scale: float, softcap: float | None
) -> torch.Tensor:
    """softmax(q kᵀ scale) v; scores may be soft-capped (Gemma 2), which the fused kernels cannot do."""
    key, value = (part.repeat_interleave(query.size(1) // part.size(1), dim=1) for part in (key, value))
    scores = query @ key.transpose(-1, -2) * scale
    if softcap:
        scores = capped(scores, softcap)
    scores = scores + mask
    return scores.softmax(dim=-1, dtype=torch.float32).to(value.dtype) @ value


def join(part: torch.Tensor) -> torch.Tensor:
    """All context-parallel ranks' parts [s, b, groups, d], one after the other: [S, b, groups, d]."""
    joined: torch.Tensor = _Gather.apply(part, parallel_state.get_context_parallel_group())
    return joined


class _Gather(torch.autograd.Function):
    """Concatenates all ranks' tensors; the gradient of each part is summed over the ranks, which all used it."""

    @staticmethod
    def forward(ctx: Any, part: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group, ctx.length = group, len(part)
        parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(group.size())]
        torch.distributed.all_gather(parts, part.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        # gloo has no reduce-scatter; the parts are small beside the layers' own activations.
        total = gradients[0].contiguous()
        torch.distributed.all_reduce(total, group=ctx.group)
        return total[ctx.group.rank() * ctx.length :][: ctx.length], None
