"""Validation: pairs and examples that training does not see, what the model makes of them, and when to stop."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from stages.config import ValidationSettings
from stages.contracts.errors import StageError
from stages.contracts.ids import digest, split_position
from stages.training.batches import Example, MicroBatch
from stages.training.losses import PairLoss, implicit_rewards
from stages.training.objectives import SIDES, Objective, Sums, sft

Forward = Callable[[Sequence[Example], Objective], dict[str, float]]
"""Means of an objective over a global batch, without gradients; the same on all ranks."""
Logprobs = dict[str, list[float]]
"""Log-probability of each row of some examples, by key."""
Gather = Callable[[Logprobs], list[Logprobs]]
"""What every rank has seen, on all ranks; only those of the last pipeline stage see something."""
MONITORED = "validation/loss"


def hold_out(examples: Sequence[Example], fraction: float) -> tuple[list[Example], list[Example]]:
    """Examples to train on, and those held out: all of a prompt, by hash of its key."""
    held_out = [split_position(example.prompt, "validation") < fraction for example in examples]
    train, validation = (
        [e for e, out in zip(examples, held_out, strict=True) if out == side] for side in (False, True)
    )
    return train, validation


@dataclass(frozen=True)
class Standing:
    """How well the model did so far."""

    best_loss: float = float("inf")
    best_step: int = 0
    """Step with the lowest loss; 0 before the first validation."""
    failures: int = 0
    """Validations in a row without a lower loss."""

    def after(self, step: int, loss: float) -> "Standing":
        """The standing once `loss` was measured after `step`."""
        return Standing(loss, step) if loss < self.best_loss else replace(self, failures=self.failures + 1)


class Validation:
    """Measures the held-out data; every rank takes part."""

    def __init__(
        self,
        settings: ValidationSettings,
        held_out: Sequence[Example],
        answers: Sequence[Example],
        objective: Objective,
        forward: Forward,
        gather: Gather,
    ) -> None:
        """`answers` are supervised examples, `held_out` examples of `objective`; with neither, nothing is ever due."""
        self.settings = settings
        self._held_out, self._answers = held_out, answers
        self._objective, self._forward, self._gather = objective, forward, gather
        self.shown = sorted(held_out, key=lambda example: digest("shown", example.key))[: settings.samples]
        """The examples whose log-probabilities are kept."""
        self.standing = Standing()

    def due(self, step: int, steps: int) -> bool:
        """Whether to measure after `step` of `steps`: before the first one, every so many, and after the last."""
        regular = step % self.settings.every_steps == 0 or step == steps
        return regular and bool(self._held_out or self._answers)

    def measure(self, step: int) -> tuple[dict[str, float], Logprobs]:
        """Metrics over all held-out data, and the log-probability of each row of the `shown` examples by key."""
        metrics: dict[str, float] = {}
        logprobs: Logprobs = {}
        if self._held_out:
            seen: Logprobs = {}
            means = self._forward(self._held_out, _watched(self._objective, {e.key for e in self.shown}, seen))
            metrics = {f"validation/{name}": value for name, value in self._objective.summary(means).items()}
            if not math.isfinite(metrics[MONITORED]):
                raise StageError(f"{MONITORED} is not finite after step {step}; lower the learning rate")
            logprobs = {key: values for part in self._gather(seen) for key, values in part.items()}
            if step:  # the model before training is not a result of it
                self.standing = self.standing.after(step, metrics[MONITORED])
        if self._answers:
            metrics["validation/answer_loss"] = self._forward(self._answers, sft())["sft_loss"]
        return metrics, logprobs

    def is_best(self, step: int) -> bool:
        """Whether the weights after `step` are to be kept."""
        return self.settings.keep == "best" and self.standing.best_step == step > 0

    @property
    def exhausted(self) -> bool:
        """Whether training should stop."""
        return self.settings.patience is not None and self.standing.failures >= self.settings.patience


def sample_rows(
    step: int,
    shown: Sequence[Example],
    texts: Sequence[dict[str, Any]],
    logprobs: Logprobs,
    beta: float,
    pair_loss: PairLoss,
) -> list[dict[str, Any]]:
    """Rows of table `validation_samples`; `texts` have the examples' texts by `pair_id`, as `data.pair_texts` does."""
    by_key, rows = {row["pair_id"]: row for row in texts}, []
    for example in shown:
        policy, lengths = logprobs[example.key], [float(row.weights[1:].sum()) for row in example.rows]
        row = {"step": step, **by_key[example.key]}
        row |= {f"logprob_{side}": value for side, value in zip(SIDES, policy, strict=False)}
        if example.reference:
            logs, reference, counts = map(torch.tensor, (policy, example.reference, lengths))
            rewards = implicit_rewards(logs, reference, counts, beta, pair_loss).tolist()
            row |= {f"reward_{side}": value for side, value in zip(SIDES, rewards, strict=True)}
        rows.append(row)
    return rows


def _watched(objective: Objective, wanted: set[str], seen: Logprobs) -> Objective:
    """The objective, which also notes the log-probabilities of the wanted examples' rows."""

    def loss(row_logprobs: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, Sums]:
        by_key = zip(batch.keys, row_logprobs.view(len(batch.keys), -1).tolist(), strict=True)
        seen.update({key: values for key, values in by_key if key in wanted})
        return objective.loss(row_logprobs, batch)

    return replace(objective, loss=loss)
