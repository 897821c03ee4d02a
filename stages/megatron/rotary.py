"""Rotary embeddings at given positions, for each kind of layer a model has."""

import math
from collections.abc import Sequence
from typing import Any

import torch

from stages.model_files.families import Rope


def inverse_frequencies(rope: Rope) -> torch.Tensor:
    """float32 [dimensions / 2]: radians per position, scaling applied; formulas of Transformers' `modeling_rope_utils`.

    `linear` stretches all positions. `llama3` stretches wavelengths beyond original_length / low_frequency, leaves
    those below original_length / high_frequency alone, and interpolates between.
    """
    exponents = torch.arange(0, rope.dimensions, 2, dtype=torch.int64).float() / rope.dimensions
    frequencies: torch.Tensor = 1.0 / rope.base**exponents
    if rope.kind == "default":
        return frequencies
    if rope.kind == "linear":
        return frequencies / rope.factor
    low, high, length = rope.low_frequency, rope.high_frequency, rope.original_length
    wavelengths = 2 * math.pi / frequencies
    smooth = ((length / wavelengths - low) / (high - low)).clamp(0, 1)
    between = (1 - smooth) * frequencies / rope.factor + smooth * frequencies
    stretched = torch.where(wavelengths > length / low, frequencies / rope.factor, between)
    return torch.where(wavelengths < length / high, frequencies, stretched)


class RotaryByPosition(torch.nn.Module):
    """Takes the place of `GPTModel.rotary_pos_emb`, which knows positions 0, 1, 2, … only.

    What `get_rotary_seq_len` returns is what Megatron hands to `forward`: the batch's own description with its
    `positions` (int [s]), or a length s, which stands for positions 0..s-1. Has neither parameters nor buffers.
    """

    def __init__(self, ropes: Sequence[Rope], device: torch.device):
        super().__init__()
        # A plain attribute: a buffer would follow the model into bfloat16.
        self._frequencies = torch.stack([inverse_frequencies(rope) for rope in ropes]).to(device)

    def get_rotary_seq_len(
        self,
        inference_context: Any,
        transformer: Any,
        transformer_input: Any,
        config: Any,
        packed_seq_params: Any = None,
    ) -> Any:
        """`packed_seq_params`, or the length of the sequence that this pipeline stage works on."""
        if packed_seq_params is not None:
            return packed_seq_params
        received = transformer.input_tensor
        length = (transformer_input if received is None else received).size(0)
        return length * (config.tensor_model_parallel_size if config.sequence_parallel else 1)

    def forward(self, what: Any, packed_seq: bool = False, cp_group: Any = None) -> torch.Tensor:
        """Angles [s, ropes, 1, dimensions], the frequencies twice over as Megatron's `apply_rotary_pos_emb` expects."""
        device = self._frequencies.device
        positions = torch.arange(what, device=device) if isinstance(what, int) else what.positions.to(device)
        angles = positions.float()[:, None, None] * self._frequencies
        return torch.cat((angles, angles), dim=-1)[:, :, None]
