"""Steps whose loss or gradient is not finite: they are skipped, and too many in a row end the training."""

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from stages.contracts.errors import StageError
from stages.megatron.cpu import cuda_or_cpu
from stages.megatron.parallel import Rank
from stages.training.batches import Example

SKIPPED = "skipped"
"""The metric: 1 for a step that was skipped, else 0."""
_NAMED_KEYS = 8


def update(optimizer: Any, metrics: Iterable[float], rank: Rank) -> tuple[float, bool]:
    """Let Megatron's optimizer step if the step's metrics and gradient are finite; returns the gradient's norm (before
    clipping) and whether it stepped.

    Neither weights nor moments change otherwise: without loss scaling Megatron's optimizer itself looks for no
    infinities, and clipping by a NaN norm would make every weight NaN. All ranks decide alike.
    """
    with cuda_or_cpu():
        overflow = optimizer.prepare_grads()
        norm = float(optimizer.get_grad_norm())
        good = not overflow and all(math.isfinite(value) for value in (*metrics, norm))
        agreed = torch.tensor(float(good), device=rank.device)
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MIN)
        if agreed:
            optimizer.step()
    return norm, bool(agreed)


class BadSteps:
    """Counts skipped steps in a row; `rows` are the metric rows of the steps before, if training was resumed."""

    def __init__(self, limit: int, rows: Iterable[dict[str, Any]] = ()):
        self.limit, self.streak = limit, 0
        for row in rows:
            if row["metric"] == SKIPPED:
                self.streak = self.streak + 1 if row["value"] else 0

    def note(self, step: int, values: dict[str, float], batch: Sequence[Example], rank: Rank) -> None:
        """Warn of a skipped step; StageError after `limit` in a row."""
        self.streak = self.streak + 1 if values[SKIPPED] else 0
        if not self.streak:
            return
        broken = ", ".join(name for name, value in values.items() if not math.isfinite(value))
        keys = [example.key for example in batch]
        pairs = ", ".join(keys[:_NAMED_KEYS]) + (f" and {len(keys) - _NAMED_KEYS} more" if keys[_NAMED_KEYS:] else "")
        if rank.is_main:
            print(f"warning: step {step} is skipped: {broken} not finite; trained on {pairs}", file=sys.stderr)
        if self.streak >= self.limit:
            raise StageError(
                f"{self.streak} steps in a row up to step {step} are not finite ({broken}); lower "
                f"train.optimizer.learning_rate or inspect these pairs: {pairs}"
            )
