"""Drawing tokens: exact probabilities, whatever the option, and samples that depend on their own numbers alone."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from stages.config import Sampling
from stages.engines.sampling import _nucleus, draw, invert, penalised, probabilities, uniforms

LOGITS = torch.tensor([[0.3, -1.0, 2.0, 0.0, 1.1, -0.4, 1.6, -2.5]])
SEEN = torch.tensor([[False, True, True, False, False, False, True, False]])


def by_the_library(logits: Tensor, sampling: Sampling, seen: Tensor) -> Tensor:
    """Exact probabilities, as Transformers' own processors make them."""
    scores = logits.double()
    if sampling.repetition_penalty != 1:
        rows = [
            RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)(of.nonzero().T, row[None])
            for of, row in zip(seen, scores, strict=True)
        ]
        scores = torch.cat(rows)
    scores = TemperatureLogitsWarper(sampling.temperature)(None, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    if sampling.min_p:
        scores = MinPLogitsWarper(sampling.min_p)(None, scores)
    return scores.softmax(-1)


@settings(max_examples=50)
@given(
    st.integers(0, 10_000),
    st.floats(0.2, 2),
    st.integers(0, 40),
    st.floats(0.05, 1),
    st.floats(0, 1),
    st.sampled_from([0.8, 1.0, 1.3]),
)
def test_options_equal_the_library(
    seed: int, temperature: float, top_k: int, top_p: float, min_p: float, penalty: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 32, generator=generator, dtype=torch.float64)
    seen = torch.rand(3, 32, generator=generator) < 0.3
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty)
    found = probabilities(penalised(logits, seen, penalty), sampling)
    assert torch.allclose(found / found.sum(-1, keepdim=True), by_the_library(logits, sampling, seen), atol=1e-12)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.6),
        Sampling(top_k=3),
        Sampling(top_p=0.8),
        Sampling(min_p=0.2),
        Sampling(repetition_penalty=1.5),
        Sampling(temperature=1.3, top_k=6, top_p=0.9, min_p=0.05, repetition_penalty=1.2),
    ],
    ids=["plain", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "all"],
)
def test_frequencies_are_the_exact_probabilities(sampling: Sampling) -> None:
    n = 40_000
    seen = SEEN.expand(n, -1) if sampling.repetition_penalty != 1 else None
    tokens, _ = draw(LOGITS.expand(n, -1), uniforms([11], n)[0], sampling, seen)
    counts = torch.bincount(tokens, minlength=LOGITS.shape[1]).double().numpy()
    expected = by_the_library(LOGITS, sampling, SEEN)[0].numpy()
    assert not counts[expected == 0].any()
    assert chisquare(counts[expected > 0], n * expected[expected > 0]).pvalue > 1e-3


@given(st.integers(0, 10_000), st.floats(0.01, 0.99), st.integers(1, 40))
def test_the_nucleus_is_that_of_a_whole_stable_sort(seed: int, top_p: float, looked_through: int) -> None:
    """Of weights of which many are equal, as those of bfloat16 logits are."""
    weights = torch.randint(1, 6, (4, 32), generator=torch.Generator().manual_seed(seed)).double() / 64
    ordered, order = weights.sort(dim=-1, descending=True, stable=True)
    kept = ordered.where(ordered.cumsum(-1) - ordered < top_p * weights.sum(-1, keepdim=True), 0.0)
    with patch("stages.engines.sampling._NUCLEUS", looked_through):
        found = _nucleus(weights, top_p)
    assert torch.equal(found, torch.zeros_like(weights).scatter(-1, order, kept))


def test_inverse_cdf_draws_the_softmax_distribution() -> None:
    logits = LOGITS[:, :5]
    n = 20_000
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens, logprobs = draw(logits.expand(n, -1), grid, Sampling(temperature=0.7))
    expected = torch.softmax(logits[0].double() / 0.7, dim=-1)
    # On an even grid of uniforms each token's share is exact to one grid step.
    assert torch.allclose(torch.bincount(tokens, minlength=5).double() / n, expected, atol=1.5 / n)
    assert torch.allclose(logprobs, logits[0].double().log_softmax(-1)[tokens], atol=1e-6)


def test_logprobs_know_no_penalty() -> None:
    tokens, logprobs = draw(LOGITS, uniforms([5], 1)[0], Sampling(repetition_penalty=1.5), SEEN)
    assert torch.allclose(logprobs, LOGITS[0].double().log_softmax(-1)[tokens], atol=1e-6)


def test_no_uniform_number_draws_a_token_of_weight_zero() -> None:
    weights = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]], dtype=torch.float64)
    for uniform, token in ((0.0, 1), (0.4999, 1), (0.5, 3), (1 - 2**-53, 3)):
        assert invert(weights, torch.tensor([uniform], dtype=torch.float64)).item() == token


def test_uniforms_depend_on_their_own_seed_alone() -> None:
    seeds = [0, 7, 2**63 - 1]
    together = uniforms(seeds, 5)
    assert together.shape == (3, 5)
    assert len(np.unique(together.numpy())) == 15
    assert all(torch.equal(uniforms([seed], 9)[0, :5], row) for seed, row in zip(seeds, together, strict=True))


def test_wide_vocabularies_are_drawn_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, seen = torch.randn(7, 11, generator=generator), torch.rand(7, 11, generator=generator) < 0.5
    sampling = Sampling(repetition_penalty=1.5)
    whole = draw(logits, uniforms([3], 7)[0], sampling, seen)
    monkeypatch.setattr("stages.engines.sampling._CHUNK", {"cpu": 22})
    parts = draw(logits, uniforms([3], 7)[0], sampling, seen)
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
