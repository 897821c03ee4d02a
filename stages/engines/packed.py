"""Weights of linear layers in the order in which oneDNN's products read them, which torch would make anew at each call.

With the few rows of a decoding step that is a good part of a product in bfloat16, and its results are the same, bit by
bit. In float32 they would not be, as torch uses another library there.
"""

from typing import Any

import torch
from torch import Tensor, nn

try:
    _REORDER: Any = torch.ops.mkldnn._reorder_linear_weight
    _LINEAR: Any = torch.ops.mkldnn._linear_pointwise
except AttributeError:  # a torch without oneDNN
    _REORDER = None


class PackedLinear(nn.Module):
    """A linear layer for inference in bfloat16 on a CPU."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.bias = layer.bias
        self._weight = _REORDER(layer.weight.detach())

    def forward(self, states: Tensor) -> Tensor:
        packed: Tensor = _LINEAR(states, self._weight, self.bias, "none", [], "")
        return packed


def pack(model: nn.Module) -> None:
    """Replace the linear layers of a model in bfloat16 on a CPU, one after the other; others stay as they are."""
    if _REORDER is None:
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            # No layer of another class: what it adds to a product is not known.
            if type(layer) is nn.Linear and layer.weight.dtype == torch.bfloat16 and layer.weight.device.type == "cpu":
                setattr(parent, name, PackedLinear(layer))
