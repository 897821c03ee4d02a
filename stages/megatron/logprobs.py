"""Log-probabilities of labels straight from hidden states: the logits of a whole batch never exist.

The output projection and the softmax run over a few tokens at a time, forward and again backward, so that memory does
not grow with vocabulary times sequence. The vocabulary may be split over tensor-parallel ranks.
"""

from typing import Any

import torch
from torch.distributed import ProcessGroup, ReduceOp, all_reduce


def token_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    labels: torch.Tensor,
    first: int = 0,
    vocabulary: int | None = None,
    chunk: int = 1024,
    softcap: float | None = None,
    group: ProcessGroup | None = None,
) -> torch.Tensor:
    """log p(labels) in nats [n], fp32, from hidden states [n, h] and this rank's rows [v, h] of the output weight.

    `first` is the token id of the rank's first row; rows from id `vocabulary` on are padding and get no probability.
    `chunk` tokens are worked on at a time. `softcap` bounds the logits as in Gemma 2. The gradient with regard to
    `hidden` is this rank's share, to be summed over `group`.
    """
    rows = weight.size(0) if vocabulary is None else max(0, min(weight.size(0), vocabulary - first))
    logprobs: torch.Tensor = _TokenLogprobs.apply(hidden, weight, labels - first, rows, chunk, softcap, group)
    return logprobs


class _TokenLogprobs(torch.autograd.Function):
    """Saves the logs of the softmax's denominators; of the numerators only the last chunk's."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        local: torch.Tensor,
        rows: int,
        chunk: int,
        softcap: float | None,
        group: ProcessGroup | None,
    ) -> torch.Tensor:
        ctx.rows, ctx.chunk, ctx.softcap = rows, chunk, softcap
        logprobs, denominators = (hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(2))
        kept = hidden.new_empty(0)
        for part in _parts(len(hidden), chunk):
            logits = _logits(hidden[part], weight[:rows], softcap)
            chosen = logits.gather(1, local[part].clamp(0, max(rows - 1, 0))[:, None]).squeeze(1)
            chosen = chosen * _inside(local[part], rows)
            highest = logits.max(dim=1).values
            _reduce(highest, ReduceOp.MAX, group)
            sums = torch.stack([chosen, logits.sub_(highest[:, None]).exp_().sum(dim=1)])
            _reduce(sums, ReduceOp.SUM, group)
            denominators[part] = highest + sums[1].log()
            logprobs[part] = sums[0] - denominators[part]
            if part.stop == len(hidden) and softcap is None:
                kept, ctx.kept_sums = logits, sums[1]
        ctx.save_for_backward(hidden, weight, local, denominators, kept)
        return logprobs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, local, denominators, kept = ctx.saved_tensors
        used, gradient = weight[: ctx.rows], gradients[0]
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32)
        for part in _parts(len(hidden), ctx.chunk):
            if len(kept) and part.stop == len(hidden):
                slope = kept.mul_((-gradient[part] / ctx.kept_sums)[:, None])  # in place: going backward happens once
            else:
                logits = _logits(hidden[part], used, ctx.softcap)
                shifted = logits - denominators[part, None] if ctx.softcap else logits.sub_(denominators[part, None])
                slope = shifted.exp_().mul_(-gradient[part, None])
            inside = _inside(local[part], ctx.rows)
            slope.scatter_add_(
                1, local[part].clamp(0, max(ctx.rows - 1, 0))[:, None], (gradient[part] * inside)[:, None]
            )
            if ctx.softcap is not None:
                slope *= 1 - (logits / ctx.softcap) ** 2
            slope = slope.to(weight.dtype)
            torch.mm(slope, used, out=hidden_gradient[part])
            if weight.dtype == torch.float32:
                weight_gradient[: ctx.rows].addmm_(slope.t(), hidden[part])
            else:
                weight_gradient[: ctx.rows] += slope.t() @ hidden[part]
        return hidden_gradient, weight_gradient.to(weight.dtype), None, None, None, None, None


def capped(scores: torch.Tensor, cap: float) -> torch.Tensor:
    """cap * tanh(scores / cap): as they are near 0, never beyond the cap (Gemma 2)."""
    return cap * torch.tanh(scores / cap)


def _parts(length: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, length)) for start in range(0, length, chunk)]


def _logits(hidden: torch.Tensor, weight: torch.Tensor, softcap: float | None) -> torch.Tensor:
    logits = (hidden @ weight.t()).float()
    return logits if softcap is None else capped(logits, softcap)


def _inside(local: torch.Tensor, rows: int) -> torch.Tensor:
    """1.0 where this rank holds the label's row, else 0.0."""
    return ((local >= 0) & (local < rows)).float()


def _reduce(values: torch.Tensor, operation: Any, group: ProcessGroup | None) -> None:
    if group is not None and group.size() > 1:
        all_reduce(values, operation, group=group)
