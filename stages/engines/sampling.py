"""Drawing tokens from logits with one uniform number per row: pure functions on tensors.

A sample is a function of the logits, the settings and its own uniform number, so it does not depend on which other
rows share the batch.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from stages.config import Sampling

_CHUNK = {"cpu": 1 << 19, "cuda": 1 << 24}
"""Largest rows x vocabulary that is held in float64 at a time: what a CPU's caches hold (4 MiB) is drawn faster."""
_NUCLEUS = 4096
"""Likeliest tokens that are looked through for the nucleus before the whole vocabulary is sorted."""


def uniforms(seeds: Sequence[int], length: int) -> Tensor:
    """Uniform numbers in [0, 1), float64 [rows, length]; row i depends on `seeds[i]` alone (Philox)."""
    return torch.from_numpy(
        np.stack([np.random.Generator(np.random.Philox(key=seed)).random(length) for seed in seeds])
    )


def draw(logits: Tensor, uniform: Tensor, sampling: Sampling, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """One token per row, and its log-probability (nats, float64) at temperature 1 without penalty and truncation.

    `logits` is [rows, vocabulary], `uniform` is [rows] in [0, 1); both results are [rows]. `seen`, bool
    [rows, vocabulary], are the tokens that a repetition penalty is for.
    """
    rows = max(1, _CHUNK[logits.device.type] // logits.shape[-1])
    parts = [
        _draw(logits[some], uniform[some], None if seen is None else seen[some], sampling)
        for some in (slice(start, start + rows) for start in range(0, len(logits), rows))
    ]
    return torch.cat([tokens for tokens, _ in parts]), torch.cat([logprobs for _, logprobs in parts])


def probabilities(logits: Tensor, sampling: Sampling) -> Tensor:
    """Unnormalised float64 probabilities [rows, vocabulary] after temperature, then top-k, top-p and min-p."""
    scores = logits.double()
    weights = torch.softmax(scores if sampling.temperature == 1 else scores / sampling.temperature, dim=-1)
    if sampling.top_k and sampling.top_k < weights.shape[-1]:
        floor = weights.topk(sampling.top_k, dim=-1).values[:, -1:]
        weights = weights.where(weights >= floor, 0.0)
    if sampling.top_p < 1:
        weights = _nucleus(weights, sampling.top_p)
    if sampling.min_p:
        weights = weights.where(weights >= sampling.min_p * weights.amax(dim=-1, keepdim=True), 0.0)
    return weights


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Logits of seen tokens divided by the penalty where positive, multiplied where negative."""
    return logits.where(~seen, torch.where(logits < 0, logits * penalty, logits / penalty))


def invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """The token at which the cumulative weight first exceeds `uniform` x the row's total; never one of weight 0.

    Tokens keep the vocabulary's order: sorted by probability, rounding could swap two likely neighbours and
    change the sample.
    """
    cumulative = weights.cumsum(dim=-1)
    total = cumulative[:, -1]
    target = torch.minimum(uniform * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target[:, None], right=True)[:, 0]


def _draw(logits: Tensor, uniform: Tensor, seen: Tensor | None, sampling: Sampling) -> tuple[Tensor, Tensor]:
    shaped = logits if seen is None else penalised(logits, seen, sampling.repetition_penalty)
    greedy = sampling.temperature == 0
    tokens = shaped.argmax(dim=-1) if greedy else invert(probabilities(shaped, sampling), uniform)
    chosen = logits.gather(-1, tokens[:, None])[:, 0]
    return tokens, chosen.double() - logits.float().logsumexp(dim=-1).double()


def _nucleus(weights: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens whose share of the weight reaches `top_p` (at least one token).

    Of equally likely ones the first in the vocabulary are kept.
    """
    target = top_p * weights.sum(dim=-1, keepdim=True)
    ordered = weights.topk(min(_NUCLEUS, weights.shape[-1]), dim=-1).values
    if (ordered.sum(dim=-1, keepdim=True) < target).any():
        ordered = weights.sort(dim=-1, descending=True).values
    kept = ordered.cumsum(dim=-1) - ordered < target
    least = ordered.where(kept, torch.inf).amin(dim=-1, keepdim=True)
    places = (kept & (ordered == least)).sum(dim=-1, keepdim=True)
    equal = weights == least
    if (equal.sum(dim=-1, keepdim=True) > places).any():
        equal &= equal.cumsum(dim=-1) <= places
    return weights.where((weights > least) | equal, 0.0)
