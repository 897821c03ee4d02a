"""Megatron-core on a CPU.

Megatron asks for CUDA by name in a few places: it creates small tensors with `device="cuda"`, it asks for the current
device, its optimizers check that parameters have a `torch.cuda.*Tensor` type, and activation recomputation saves and
restores the GPU's random generator. On a machine without a GPU this module answers those questions for it; the
arithmetic, the collectives (gloo) and the schedules are Megatron's own.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from megatron.core.tensor_parallel import random
from torch.overrides import TorchFunctionMode


class _CudaMeansCpu(TorchFunctionMode):
    """Creates on the CPU what is asked for on CUDA, and shows CPU tensors under their CUDA type names."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.Tensor.cuda:
            return args[0]
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs = {**kwargs, "device": "cpu"}
        result = function(*args, **kwargs)
        if function is torch.Tensor.type and isinstance(result, str):
            return result.replace("torch.", "torch.cuda.")
        return result


@contextlib.contextmanager
def cuda_or_cpu() -> Iterator[None]:
    """Within this context Megatron's code runs, with or without a GPU."""
    if torch.cuda.is_available():
        yield
        return
    with (
        patch.object(torch.cuda, "current_device", lambda: torch.device("cpu")),
        patch.object(torch.cuda, "synchronize", lambda: None),
        patch.object(torch.cuda, "get_rng_state", lambda *_, **__: torch.empty(0)),
        # Where there is no GPU its generator has no state; the CPU's is saved and restored beside it.
        patch.object(random, "_get_cuda_rng_state", lambda *_, **__: torch.empty(0)),
        patch.object(random, "_set_cuda_rng_state", lambda *_, **__: None),
        _CudaMeansCpu(),
    ):
        yield
