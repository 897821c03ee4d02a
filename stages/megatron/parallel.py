"""Process groups: joins torchrun's world, lays Megatron's parallel groups over it, and says who this rank is."""

import contextlib
import datetime
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from megatron.core import parallel_state
from torch._C._distributed_c10d import HashStore

from stages.config import MegatronSettings
from stages.errors import StageError


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
    def is_main(self) -> bool:
        """Whether this rank writes logs and metrics."""
        return self.rank == 0


@contextlib.contextmanager
def world(settings: MegatronSettings) -> Iterator[Rank]:
    """Join the process group that torchrun (or srun) announced, or a world of one, and lay out the model over it.

    Raises StageError if the world cannot hold the layout.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    rank = int(os.environ.get("RANK", 0))
    tensor_parallel, pipeline_parallel = settings.tensor_parallel, settings.pipeline_parallel
    if size % (tensor_parallel * pipeline_parallel):
        raise StageError(
            f"{size} ranks cannot be laid out as tensor_parallel {tensor_parallel} x pipeline_parallel "
            f"{pipeline_parallel}: use a multiple of {tensor_parallel * pipeline_parallel} ranks"
        )
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
            tensor_model_parallel_size=tensor_parallel, pipeline_model_parallel_size=pipeline_parallel
        )
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
