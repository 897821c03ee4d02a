"""Attention in parts equals attention by the formula."""

import pytest
import torch
from torch import Tensor

from stages.engines.attention import Shape, merge, read


def formula(query: Tensor, keys: Tensor, values: Tensor, shape: Shape, hidden: Tensor) -> Tensor:
    scores = query @ keys.transpose(-1, -2) * shape.scale
    if shape.softcap is not None:
        scores = shape.softcap * torch.tanh(scores / shape.softcap)
    return scores.masked_fill(hidden, -torch.inf).softmax(dim=-1) @ values


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_parts_become_the_whole(dtype: torch.dtype, softcap: float | None) -> None:
    random = torch.Generator().manual_seed(0)
    query = torch.randn(3, 2, 5, 8, generator=random)
    keys, values = (torch.randn(3, 2, 11, 8, generator=random) for _ in range(2))
    shape = Shape(0.5, softcap, None)
    hidden = torch.rand(3, 1, 5, 11, generator=random) < 0.3
    hidden[0, :, :, :4] = True  # nothing to see in the first part
    hidden[1] = False
    parts = [slice(0, 4), slice(4, 5), slice(5, 11)]
    hidden[..., 4] = False
    query, keys, values = (states.to(dtype) for states in (query, keys, values))
    found = merge([read(query, keys[:, :, p], values[:, :, p], shape, hidden[..., p]) for p in parts])
    expected = formula(query.double(), keys.double(), values.double(), shape, hidden)
    assert found.dtype == dtype
    assert torch.allclose(found.double(), expected, atol=1e-6 if dtype == torch.float32 else 3e-2)


def test_what_all_see_needs_no_mask_and_may_be_one_for_all() -> None:
    random = torch.Generator().manual_seed(1)
    query, keys, values = (torch.randn(2, 1, 4, 8, generator=random) for _ in range(3))
    shape = Shape(0.3, None, None)
    none = torch.zeros(1, 1, 1, 4, dtype=torch.bool)
    assert torch.allclose(read(query, keys, values, shape).states, formula(query, keys, values, shape, none), atol=1e-6)
    last = none.clone()
    last[..., 3] = True
    found = read(query, keys, values, shape, last).states
    assert torch.allclose(found, formula(query, keys, values, shape, last), atol=1e-6)
