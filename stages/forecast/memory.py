"""Memory of one rank in training, from the model's architecture and the layout. Pure; bytes.

Not counted: the process itself with its libraries, buffers of communication, what an allocator wastes.
"""

from dataclasses import dataclass

from stages.config import MegatronSettings
from stages.model_files.families import Architecture
from stages.model_files.size import rank_parameters

WIDTH = {"float32": 4, "bfloat16": 2}
"""Bytes of a weight or an activation."""
FORMULAS = {
    "weights": "P w: P weights on the rank that holds most, of w = 4 bytes, 2 in bfloat16",
    "gradients": "4 P: they are summed in fp32",
    "optimizer": "8 P of Adam's moments, and in bfloat16 4 P of fp32 weights; shared by all replicas and context ranks "
    "with distributed_optimizer",
    "activations": "T L (n (w + r) h / s + w (4 q + 5 k + m f) / t), with norms of queries and keys (w + 8) (q + k) / "
    "t more: T = micro_batch_tokens / context_parallel, L layers (a pipeline's first group holds as many micro-batches "
    "as there are groups), widths h hidden, q of all queries, k of all keys, f feed-forward, m = 5 if gated, else 2, "
    "n = 2 norms (Gemma 4) that keep r = 8 bytes in fp32 (LayerNorm w), t = tensor_parallel, s = t with "
    "sequence_parallel, else 1; with recompute w h / s of each layer, and one layer in full; scores of attention "
    "without kernels are not counted",
    "vocabulary": "8 c v + 4 v h: logits and their slopes for c = logprob_chunk_tokens predictions over the rank's v "
    "rows, and the gradient of these rows",
}


@dataclass(frozen=True)
class RankMemory:
    """Bytes; see `FORMULAS`."""

    parameters: int
    """Weights that the rank holds: a number, not bytes."""
    weights: float
    gradients: float
    optimizer: float
    activations: float
    vocabulary: float

    @property
    def total(self) -> float:
        """All parts together."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.vocabulary


def rank_memory(model: Architecture, settings: MegatronSettings) -> RankMemory:
    """Memory of the rank that holds most weights."""
    count = rank_parameters(model, settings.tensor_parallel, settings.pipeline_parallel)
    width = WIDTH[settings.dtype]
    ranks = settings.processes * settings.nodes
    sharing = ranks // (settings.tensor_parallel * settings.pipeline_parallel) if settings.distributed_optimizer else 1
    rows = -(-model.vocabulary // settings.tensor_parallel)
    return RankMemory(
        parameters=count,
        weights=count * width,
        gradients=count * 4,
        optimizer=count * optimizer_bytes(settings) / sharing,
        activations=_activations(model, settings),
        vocabulary=8 * settings.logprob_chunk_tokens * rows + 4 * rows * model.hidden,
    )


def optimizer_bytes(settings: MegatronSettings) -> int:
    """Bytes per weight of Adam's state: two moments, and fp32 weights where training has others."""
    return 8 if settings.dtype == "float32" else 12


def _activations(model: Architecture, settings: MegatronSettings) -> float:
    """What the way back needs."""
    tokens = settings.micro_batch_tokens / settings.context_parallel
    layer = layer_bytes(model, settings)
    if not settings.recompute:
        return tokens * _layers(model, settings) * layer
    return tokens * (_layers(model, settings) * WIDTH[settings.dtype] * _between(model, settings) + layer)


def layer_bytes(model: Architecture, settings: MegatronSettings) -> float:
    """Bytes that a layer keeps of a token until the way back."""
    width, family = WIDTH[settings.dtype], model.family
    queries, keys = model.heads * model.head_dimension, model.groups * model.head_dimension
    norms, in_norm = (4 if family.gemma else 2), (width if family.norm == "layer_plus_one" else 8)
    inside = width * (4 * queries + 5 * keys + (5 if family.gated else 2) * model.feed_forward)
    inside += (width + 8) * (queries + keys) * family.qk_norm
    return norms * (width + in_norm) * _between(model, settings) + inside / settings.tensor_parallel


def _between(model: Architecture, settings: MegatronSettings) -> float:
    """A rank's share of a hidden state between the split parts of a layer."""
    return model.hidden / (settings.tensor_parallel if settings.sequence_parallel else 1)


def _layers(model: Architecture, settings: MegatronSettings) -> float:
    """Layers whose activations a rank holds at once: its share of them for each micro-batch in flight. Interleaved
    schedules start (p - 1) / (p v) more (Korthikanti et al. 2022)."""
    groups, chunks = settings.pipeline_parallel, settings.pipeline_chunks
    return model.layers * (1 + (groups - 1) / (groups * chunks) if chunks > 1 else 1)
