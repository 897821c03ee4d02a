"""Process groups: joins torchrun's world, lays Megatron's parallel groups over it, and says who this rank is."""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import model_parallel_cuda_manual_seed
from torch._C._distributed_c10d import HashStore

from stages.config import MegatronSettings
from stages.megatron.cpu import cuda_or_cpu
from stages.megatron.transformer_engine import check_attention
from stages.model_files.families import Architecture
from stages.model_files.rank_layout import check_layout
from stages.training.batches import Layout
from stages.training.packing import Part

Value = TypeVar("Value")


@dataclass(frozen=True)
class Rank:
    """Where this process stands in the world."""

    rank: int
    world: int
    device: torch.device

    @property
    def data_rank(self) -> int:
        """Index of this rank's data-parallel replica."""
        return int(parallel_state.get_data_parallel_rank())

    @property
    def data_size(self) -> int:
        """Number of data-parallel replicas."""
        return int(parallel_state.get_data_parallel_world_size())

    @property
    def reports(self) -> bool:
        """Whether this is the one rank of its replica and pipeline stage that speaks for the others."""
        tensor, context = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_context_parallel_rank()
        return bool(tensor == 0 and context == 0)

    @property
    def is_main(self) -> bool:
        """Whether this rank writes logs and metrics."""
        return self.rank == 0

    def from_main(self, compute: Callable[[], Value]) -> Value:
        """What `compute` gives on the main rank, which alone calls it, on every rank. Collective.

        An error there is told by that rank; the others are ended where they wait for it.
        """
        values: list[Any] = [compute() if self.is_main else None]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def from_all(self, value: Value) -> list[Value]:
        """Every rank's value, by rank, on every rank. Collective."""
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values


@contextlib.contextmanager
def world(settings: MegatronSettings, model: Architecture) -> Iterator[Rank]:
    """Join the process group that torchrun (or srun) announced, or a world of one, and lay out the model over it.

    Raises StageError if the world cannot hold the layout, or lacks the attention that is asked for.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    rank = int(os.environ.get("RANK", 0))
    check_layout(settings, model, size)
    check_attention(settings, model)
    torch.set_num_threads(settings.threads)
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    # A world of one meets in memory: two such runs on one machine can never collide on a port.
    store = HashStore() if size == 1 else None
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(minutes=30),
    )
    try:
        parallel_state.initialize_model_parallel(
            tensor_model_parallel_size=settings.tensor_parallel,
            pipeline_model_parallel_size=settings.pipeline_parallel,
            virtual_pipeline_model_parallel_size=settings.pipeline_chunks if settings.pipeline_chunks > 1 else None,
            context_parallel_size=settings.context_parallel,
        )
        with cuda_or_cpu():
            model_parallel_cuda_manual_seed(seed=0)  # sequence parallelism wants its generators, though nothing draws
        yield Rank(rank, size, device)
    except BaseException:
        # Leaving the group would wait for the others, or let them complain first of a closed connection.
        if size == 1:
            _leave()
        raise
    _leave()


def _leave() -> None:
    parallel_state.destroy_model_parallel()
    torch.distributed.destroy_process_group()


def batch_layout(settings: MegatronSettings) -> Layout:
    """How this rank lays out its micro-batches."""
    multiple = settings.tensor_parallel if settings.sequence_parallel else 1
    part = Part(parallel_state.get_context_parallel_rank(), settings.context_parallel, multiple)
    uniform = settings.pipeline_chunks > 1
    return Layout(settings.packing, settings.share_prompts, settings.loss_logits_only, part, uniform)
