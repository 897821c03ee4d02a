"""Readings of clock and memory: how fast a step was, and how much of the devices' peak it used."""

import math
import resource
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from stages.megatron.parallel import Rank
from stages.model_files.families import Architecture
from stages.training.batches import Example


@dataclass(frozen=True)
class ModelSize:
    """What the arithmetic of a dense transformer depends on."""

    parameters: int
    """Weights that every token is multiplied with: all but an embedding that is only looked up."""
    layers: int
    attention_width: int
    """Query heads times their width."""

    def training_flops(self, tokens: int) -> int:
        """Floating-point operations of forward and backward over one sequence: 6 N n, and 6 L w n² for causal
        attention (Chowdhery et al. 2022, appendix B, halved for the masked half)."""
        return 6 * self.parameters * tokens + 6 * self.layers * self.attention_width * tokens**2


def model_size(directory: Path, model: Architecture) -> ModelSize:
    """The size of a model directory, from its architecture and the heads of its safetensors files."""
    counts: dict[str, int] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as handle:
            counts |= {name: math.prod(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
    looked_up = counts.get("model.embed_tokens.weight", 0) if "lm_head.weight" in counts else 0
    return ModelSize(sum(counts.values()) - looked_up, model.layers, model.head_dimension * model.heads)


def token_count(batch: Sequence[Example]) -> int:
    """Tokens of all rows of a global batch, prompts included; padding is none."""
    return sum(len(row.tokens) for example in batch for row in example.rows)


def speed(
    batch: Sequence[Example], seconds: float, size: ModelSize | None, peak_flops: float | None
) -> dict[str, float]:
    """Readings of a step over a global batch that took `seconds`; `mfu` where `size` and `peak_flops` (per second, of
    all ranks together) are known."""
    readings = {"seconds": seconds, "tokens_per_second": token_count(batch) / seconds}
    if size is not None and peak_flops is not None:
        flops = sum(size.training_flops(len(row.tokens)) for example in batch for row in example.rows)
        readings["mfu"] = flops / seconds / peak_flops
    return readings


def peak_memory(rank: Rank) -> float:
    """Largest memory that any rank has used so far, in MiB: of its GPU, or resident on CPU. All ranks must ask."""
    if rank.device.type == "cuda":
        used = torch.cuda.max_memory_allocated(rank.device) / 2**20
    else:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    largest = torch.tensor(used, dtype=torch.float64, device=rank.device)
    torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX)
    return largest.item()
