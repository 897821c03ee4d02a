"""The state of a training run as Megatron's sharded state dict: weights, optimizer, random generators.

Weights and optimizer are described by the whole model's tensors (`fully_reshardable`), whatever ranks hold them: any
layout of ranks can load what another one saved.
"""

import contextlib
import pickle
import warnings
from collections.abc import Iterator
from enum import Enum
from itertools import accumulate
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from unittest.mock import patch

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.mapping import ShardedObject
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

from stages.contracts.errors import StageError
from stages.megatron.cpu import cuda_or_cpu

_FORMAT = {
    "distrib_optim_sharding_type": "fully_reshardable",
    # Gather moments in the memory of each first replica's host; else all of them at once in that of every GPU.
    "distrib_optim_fully_reshardable_mem_efficient": True,
    "chained_optim_avoid_prefix": True,
    "singleton_local_shards": True,
}
_GENERATORS = "random"
_POSITION = ("last_epoch", "_step_count")


def save(trainer: Any, directory: Path) -> None:
    """Write the state into an empty directory, a part from each rank; raises what Megatron and the disk raise."""
    # Megatron hands results over in a queue of a process of its own, which would be one more to start, and to lose when
    # a cluster signals every process of a job. Saving here is not asynchronous: a queue in this process will do.
    # The warnings are of deprecations between Megatron and PyTorch, which no user can act on.
    queue = patch.object(filesystem_async, "_get_write_results_queue", SimpleQueue)
    with cuda_or_cpu(), warnings.catch_warnings(action="ignore"), queue:
        state = _sharded(trainer, loading=False)
        dist_checkpointing.save({**state, _GENERATORS: _generators()}, str(directory))


def load(trainer: Any, directory: Path, same_ranks: bool) -> None:
    """Bring the trainer into the state that `save` wrote; random generators only where the ranks are as many."""
    _check_index(directory / ".metadata")
    _fill_moments(trainer.optimizer)
    with cuda_or_cpu(), warnings.catch_warnings(action="ignore"), _keep_step_counts():
        wanted = _sharded(trainer, loading=True)
        loaded = dist_checkpointing.load({**wanted, _GENERATORS: _generators() if same_ranks else {}}, str(directory))
        for index, chunk in enumerate(trainer.chunks):
            # Not strict, for the extra states that are left out. Megatron refuses a checkpoint that lacks a tensor.
            chunk.module.load_state_dict(loaded[f"model{index}"], strict=False)
        trainer.optimizer.load_state_dict(loaded["optimizer"])
    _fill_moments(trainer.optimizer)
    if same_ranks:
        torch.set_rng_state(loaded[_GENERATORS]["cpu"][0].cpu())
        if torch.cuda.is_available():
            torch.cuda.set_rng_state(loaded[_GENERATORS]["cuda"][0].cpu())


def has_moments(trainer: Any) -> bool:
    """Whether this rank's optimizer has updated any weight."""
    return any(part.optimizer.state for part in _parts(trainer.optimizer))


def schedule_position(trainer: Any) -> dict[str, int]:
    """Where the learning-rate schedules stand; all else in them are settings."""
    state = trainer.schedules[0].state_dict()
    return {name: state[name] for name in _POSITION}


def set_schedule_position(trainer: Any, position: dict[str, int]) -> None:
    """Bring every schedule to where `schedule_position` found them."""
    for schedule in trainer.schedules:
        schedule.load_state_dict(position)


def _sharded(trainer: Any, loading: bool) -> dict[str, Any]:
    form = dict(_FORMAT)  # Megatron notes its process groups in it
    models = {
        f"model{index}": _tensors(chunk.module.sharded_state_dict(metadata=form))
        for index, chunk in enumerate(trainer.chunks)
    }
    with _buckets_without_padding(trainer.optimizer):
        optimizer = trainer.optimizer.sharded_state_dict(models, is_loading=loading, metadata=form)
    return {**models, "optimizer": optimizer}


def _tensors(state: dict[str, Any]) -> dict[str, Any]:
    """Without the layers' extra states: they are empty but for 8-bit training, and would be read as pickles."""
    return {name: value for name, value in state.items() if not isinstance(value, ShardedObject)}


def _generators() -> dict[str, ShardedTensor]:
    """Each rank's generator state as a row of [ranks, bytes]."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    return {
        name: ShardedTensor.from_rank_offsets(f"{_GENERATORS}.{name}", state[None], (0, rank, ranks))
        for name, state in states.items()
    }


def _fill_moments(optimizer: Any) -> None:
    """Give each parameter the moments that Adam would create in its first step, and a step count of its own.

    Megatron describes the moments that there are, and asks PyTorch's Adam (used where neither Transformer Engine nor
    Apex is installed) for its step count even before the first step. The distributed optimizer's `load_state_dict`
    lets all parameters share one count tensor, which the next step would then increment once per parameter.
    """
    for part in _parts(optimizer):
        part.init_state_fn(part.optimizer, part.config)
        if isinstance(part.optimizer, torch.optim.Adam):
            for state in part.optimizer.state.values():
                state["step"] = state["step"].clone() if "step" in state else torch.tensor(0.0)


def _keep_step_counts() -> Any:
    """Within this context the distributed optimizer finds the step count that PyTorch's Adam has beside its moments.

    `fully_reshardable` keeps one count for all parameters, but then looks for it among each parameter's tensors.
    """
    real = DistributedOptimizer._set_main_param_and_optimizer_states

    def set_states(self: Any, parameter: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
        held = self._get_main_param_and_optimizer_states(parameter)
        real(self, parameter, {**{name: held[name] for name in held.keys() & {"step"}}, **tensors})

    return patch.object(DistributedOptimizer, "_set_main_param_and_optimizer_states", set_states)


@contextlib.contextmanager
def _buckets_without_padding(optimizer: Any) -> Iterator[None]:
    """Within this context the distributed optimizer finds its parameters where they are once its buckets are joined.

    `fully_reshardable` joins them without the padding between them, but then looks where the parameters are with it.
    Tied embeddings that two pipeline stages hold are a bucket of their own.
    """
    buffers = [buffer for part in _parts(optimizer) for buffer in getattr(part, "buffers", [])]
    with contextlib.ExitStack() as stack:
        for buffer in buffers:
            starts = accumulate((bucket.numel_unpadded for bucket in buffer.buckets), initial=0)
            padding = [bucket.offset - start for bucket, start in zip(buffer.buckets, starts, strict=False)]
            joined = {
                parameter: (start - padding[bucket], end - padding[bucket], bucket)
                for parameter, (start, end, bucket) in buffer.param_index_map.items()
            }
            stack.enter_context(patch.object(buffer, "param_index_map", joined))
        yield


def _parts(optimizer: Any) -> list[Any]:
    return getattr(optimizer, "chained_optimizers", [optimizer])


_INDEX_TYPES = {
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata",
        "ChunkStorageMetadata",
        "Metadata",
        "MetadataIndex",
        "StorageMeta",
        "TensorProperties",
        "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.planner": {"SavePlan", "TensorWriteData", "WriteItem", "WriteItemType"},
}


class _Index(pickle.Unpickler):
    """Reads PyTorch's index of a checkpoint, and nothing but the plain types that it is made of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not dtype and name not in _INDEX_TYPES.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} does not belong into the index of a checkpoint")
        return super().find_class(module, name)


def _member(kind: Any, name: str) -> Enum:
    """A member of an enumeration: before Python 3.11.4 that is pickled as an attribute of its class."""
    if not (isinstance(kind, type) and issubclass(kind, Enum) and name in kind.__members__):
        raise pickle.UnpicklingError(f"an attribute {name!r} does not belong into the index of a checkpoint")
    return kind[name]


def _check_index(path: Path) -> None:
    """PyTorch will unpickle the index without asking; this finds out first that it calls nothing it should not."""
    try:
        with open(path, "rb") as handle:
            _Index(handle).load()
    except pickle.UnpicklingError as error:
        raise StageError(f"{path}: {error}; delete {path.parent} and rerun") from error
