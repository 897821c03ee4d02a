"""From examples to micro-batches: which examples form a step, which rank works on them, how they are padded.

Every rank derives the same plan from the same examples, so that no batch is ever sent between ranks. No example is
dropped to make a batch even and none counts twice: a rank without work in a step computes an example of weight 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from stages.ids import digest


@dataclass(frozen=True)
class Row:
    """One token sequence. `weights[i]` weighs the log-probability of `tokens[i]`; 0 where there is no loss."""

    tokens: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Example:
    """What is never torn apart: one row (SFT), or the chosen and the rejected row of a pair (DPO)."""

    key: str
    rows: tuple[Row, ...]
    reference: tuple[float, ...] = ()
    """Reference log-probability of each row (DPO)."""
    weight: float = 1.0
    score_margin: float | None = None
    """Judge score of the chosen minus that of the rejected response; None where the pair has no scores."""
    prompt: str = ""
    """Key of the prompt: what belongs to one prompt is held out together."""
    facts: Mapping[str, float] = field(default_factory=dict)
    """Numbers whose means over a batch are reported; the same names in every example of a batch."""

    @property
    def length(self) -> int:
        """Tokens of its longest row."""
        return max(len(row.tokens) for row in self.rows)

    @property
    def loss_weight(self) -> float:
        """Sum of the loss weights of all rows."""
        return float(sum(row.weights.sum() for row in self.rows)) * self.weight


@dataclass(frozen=True)
class MicroBatch:
    """Padded rows for one forward pass; the rows of an example are adjacent."""

    keys: list[str]
    tokens: torch.Tensor = field(repr=False)  # [rows, s]
    labels: torch.Tensor = field(repr=False)  # [rows, s]: the next token
    weights: torch.Tensor = field(repr=False)  # [rows, s]: weight of predicting that label
    reference: torch.Tensor = field(repr=False)  # [examples, rows per example] or [examples, 0]
    example_weights: torch.Tensor = field(repr=False)  # [examples]
    score_margins: torch.Tensor = field(repr=False)  # [examples]; NaN where there is none
    facts: dict[str, torch.Tensor] = field(repr=False, default_factory=dict)  # each [examples]

    @property
    def row_lengths(self) -> torch.Tensor:
        """Weighted tokens of each row: [rows]."""
        return self.weights.sum(dim=1)


def plan_steps(examples: Sequence[Example], batch_size: int, epochs: int, seed: int) -> list[list[Example]]:
    """Global batches of all epochs; each epoch shuffles by hash of seed, epoch and key, whatever the input order."""
    steps = []
    for epoch in range(epochs):
        order = sorted(examples, key=lambda example: digest(seed, epoch, example.key))
        steps += [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return steps


def rank_share(batch: Sequence[Example], rank: int, size: int) -> list[Example]:
    """The examples of a global batch that data-parallel `rank` of `size` computes; lengths are balanced over ranks."""
    ordered = sorted(batch, key=lambda example: (-example.length, example.key))
    # Dealt out back and forth, so that no rank always gets the longer of two neighbours.
    share = [e for i, e in enumerate(ordered) if (i % size if (i // size) % 2 == 0 else size - 1 - i % size) == rank]
    if share:
        return share
    idle = ordered[-1]
    return [replace(idle, weight=0.0)]


def micro_batches(share: Sequence[Example], token_budget: int, device: torch.device) -> list[MicroBatch]:
    """Split a rank's examples into padded micro-batches of at most `token_budget` tokens (at least one example)."""
    groups: list[list[Example]] = []
    for example in sorted(share, key=lambda example: (example.length, example.key)):
        rows = (len(groups[-1]) + 1) * len(example.rows) if groups else 0
        if groups and rows * example.length <= token_budget:
            groups[-1].append(example)
        else:
            groups.append([example])
    return [_pad(group, device) for group in groups]


def score_margins(examples: Sequence[Example]) -> torch.Tensor:
    """Score margin [examples] of each; NaN where it has none."""
    margins = [math.nan if example.score_margin is None else example.score_margin for example in examples]
    return torch.tensor(margins, dtype=torch.float32)


def example_facts(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """The examples' facts, each [examples]."""
    return {name: torch.tensor([example.facts[name] for example in examples]) for name in examples[0].facts}


def _pad(group: Sequence[Example], device: torch.device) -> MicroBatch:
    rows = [row for example in group for row in example.rows]
    width = max(len(row.tokens) for row in rows) - 1
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    labels = np.zeros((len(rows), width), dtype=np.int64)
    weights = np.zeros((len(rows), width), dtype=np.float32)
    for i, row in enumerate(rows):
        n = len(row.tokens) - 1
        tokens[i, :n], labels[i, :n], weights[i, :n] = row.tokens[:-1], row.tokens[1:], row.weights[1:]
    return MicroBatch(
        keys=[example.key for example in group],
        tokens=torch.from_numpy(tokens).to(device),
        labels=torch.from_numpy(labels).to(device),
        weights=torch.from_numpy(weights).to(device),
        reference=torch.tensor([example.reference for example in group], dtype=torch.float32, device=device),
        example_weights=torch.tensor([example.weight for example in group], dtype=torch.float32, device=device),
        score_margins=score_margins(group).to(device),
        facts={name: values.to(device) for name, values in example_facts(group).items()},
    )
