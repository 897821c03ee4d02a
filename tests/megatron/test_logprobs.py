"""Chunked log-probabilities against PyTorch's own softmax over all logits."""

import pytest
import torch

from stages.megatron.logprobs import token_logprobs

N, HIDDEN, VOCABULARY = 11, 8, 23


def problem(dtype=torch.float32, padding=0):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(N, HIDDEN, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY + padding, HIDDEN, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, VOCABULARY, (N,), generator=generator)
    return hidden, weight, labels, torch.randn(N, generator=generator)


def plain(hidden, weight, labels, softcap=None):
    logits = hidden.float() @ weight[:VOCABULARY].float().t()
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    return logits.log_softmax(-1).gather(1, labels[:, None]).squeeze(1)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
def test_values_and_gradients(chunk, padding, softcap):
    hidden, weight, labels, slopes = problem(padding=padding)
    found = token_logprobs(hidden, weight, labels, vocabulary=VOCABULARY, chunk=chunk, softcap=softcap)
    expected = plain(hidden, weight, labels, softcap)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad((found * slopes).sum(), (hidden, weight)),
        torch.autograd.grad((expected * slopes).sum(), (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_bfloat16_is_scored_in_float32():
    hidden, weight, labels, _ = problem(torch.bfloat16)
    found = token_logprobs(hidden, weight, labels, chunk=4)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain(hidden, weight, labels), rtol=0.02, atol=0.05)


def test_no_predictions_are_no_problem():
    """A context-parallel rank may hold none: its gradients are zero, not absent."""
    hidden, weight, labels, _ = problem()
    found = token_logprobs(hidden[:0], weight, labels[:0])
    found.sum().backward()
    assert found.shape == (0,)
    assert weight.grad is not None
    assert not weight.grad.any()


def test_memory_does_not_grow_with_vocabulary_times_sequence():
    """The largest tensor that either pass makes has `chunk` rows of logits, or is a gradient of the arguments."""
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            sizes.extend(
                part.numel() for part in (out if isinstance(out, tuple | list) else [out]) if torch.is_tensor(part)
            )
            return out

    vocabulary, length, chunk = 500, 640, 16
    hidden, weight = torch.randn(length, 4, requires_grad=True), torch.randn(vocabulary, 4, requires_grad=True)
    with Watch():
        token_logprobs(hidden, weight, torch.zeros(length, dtype=torch.long), chunk=chunk).sum().backward()
    assert max(sizes) == vocabulary * chunk
