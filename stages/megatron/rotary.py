"""Rotary embeddings by position: Megatron's own know only positions 0, 1, 2, ... of a row."""

from typing import Any

import torch

from stages.megatron.packing import Packing


class RotaryByPosition(torch.nn.Module):
    """Takes the place of `GPTModel.rotary_pos_emb`."""

    def __init__(self, frequencies: torch.Tensor):
        super().__init__()
        self.register_buffer("frequencies", frequencies, persistent=False)

    def get_rotary_seq_len(
        self, inference_context: Any, transformer: Any, transformer_input: Any, config: Any, packing: Any = None
    ) -> Packing | int:
        """What `forward` is called with: the packing, or the length of unpacked rows."""
        if packing is not None:
            return packing
        hidden = transformer.input_tensor if transformer.input_tensor is not None else transformer_input
        return int(hidden.size(0)) * (config.tensor_model_parallel_size if config.sequence_parallel else 1)

    def forward(self, tokens: Packing | int, **_: Any) -> torch.Tensor:
        """Angles [s, 1, 1, d] in radians."""
        device = self.frequencies.device
        positions = torch.arange(tokens, device=device) if isinstance(tokens, int) else tokens.positions
        angles = torch.outer(positions.float(), self.frequencies)
        return torch.cat([angles, angles], dim=-1)[:, None, None]
