"""Training on Megatron-core: model, weights, batches, losses and the loop. The only package that imports Megatron."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

# Apex and Transformer Engine are optional; Megatron says so once per module and process.
warnings.filterwarnings("ignore", message=".*(Apex|Transformer Engine).*not installed.*")


@contextmanager
def lean_imports() -> Iterator[None]:
    """What is imported herein loads neither PyTorch's compiler nor wandb, a third of a training's start.

    Megatron decorates its fused kernels with the compiler, and a CPU runs none of them; wandb serves its inference.
    With a GPU nothing is left out.
    """
    if torch.cuda.is_available() or "wandb" in sys.modules:
        yield
        return
    sys.modules["wandb"] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        with patch.object(torch, "compile", _as_it_is):
            yield
    finally:
        del sys.modules["wandb"]


def _as_it_is(function: Any = None, **_: Any) -> Any:
    return function or _as_it_is


with lean_imports():
    import megatron.core  # noqa: F401
