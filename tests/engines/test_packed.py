"""Packed weights give the very numbers that torch gives."""

import pytest
import torch
from torch import nn

from stages.engines.packed import PackedLinear, pack


class Model(nn.Module):
    def __init__(self, bias: bool = False):
        super().__init__()
        self.inner = nn.ModuleList([nn.Linear(96, 160, bias=bias), nn.Linear(160, 96, bias=bias)])
        self.head = nn.Linear(96, 320, bias=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        for layer in (*self.inner, self.head):
            states = layer(states)
        return states


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 64, 500])
def test_the_same_numbers_bit_by_bit(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    model = Model(bias).bfloat16()
    states = torch.randn(1, rows, 96).bfloat16()
    with torch.inference_mode():
        plain = model(states)
        pack(model)
        assert isinstance(model.inner[0], PackedLinear)
        assert isinstance(model.head, PackedLinear)
        assert torch.equal(model(states), plain)


def test_float32_and_layers_of_other_classes_stay() -> None:
    class Scaled(nn.Linear):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(states)

    model = Model()
    pack(model)
    assert type(model.head) is nn.Linear
    model = Model().bfloat16()
    model.head = Scaled(96, 320).bfloat16()
    pack(model)
    assert type(model.head) is Scaled
