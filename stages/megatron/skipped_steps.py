"""Steps that were skipped, as their loss or gradient was not finite: told, and too many in a row end the training."""

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from stages.contracts.errors import StageError
from stages.megatron.parallel import Rank
from stages.training.batches import Example

SKIPPED = "skipped"
"""The metric: 1 for a step that was skipped, else 0."""
_NAMED_KEYS = 8


class SkippedSteps:
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
