"""From examples to micro-batches: which examples form a step, which rank works on them, how they are padded.

Every rank derives the same plan from the same examples, so that no batch is ever sent between ranks. No example is
dropped to make a batch even and none counts twice: a rank without work in a step computes an example of weight 0.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from stages.contracts.ids import digest
from stages.training.packing import WHOLE, Loss, Packing, Part, pack, packed_length, pad
from stages.training.packing import Row as Row


@dataclass(frozen=True)
class Layout:
    """How rows become the tensors of a micro-batch; the fields are those of the `megatron` settings."""

    packing: bool = True
    share_prompts: bool = True
    loss_logits_only: bool = True
    part: Part = WHOLE
    uniform: bool = False
    """Packs of a step all as long as the longest, with padding: an interleaved pipeline exchanges one shape only."""

    def size(self, rows: Sequence[Row], width: int) -> int:
        """Tokens that an example takes, where padded rows are `width` wide."""
        return packed_length(rows, self.share_prompts) if self.packing else len(rows) * width


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
    """What one forward pass computes; the rows of an example are adjacent."""

    keys: list[str]
    tokens: torch.Tensor = field(repr=False)  # [1, s] packed, [rows, s] padded; this context-parallel rank's part
    packing: Packing | None = field(repr=False)
    loss: Loss = field(repr=False)
    row_lengths: torch.Tensor = field(repr=False)  # [rows]: sum of a row's loss weights
    reference: torch.Tensor = field(repr=False)  # [examples, rows per example] or [examples, 0]
    example_weights: torch.Tensor = field(repr=False)  # [examples]
    score_margins: torch.Tensor = field(repr=False)  # [examples]; NaN where there is none
    facts: dict[str, torch.Tensor] = field(repr=False, default_factory=dict)  # each [examples]


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


def micro_batches(
    share: Sequence[Example], token_budget: int, device: torch.device, layout: Layout | None = None, multiple: int = 1
) -> list[MicroBatch]:
    """Split a rank's examples into micro-batches of at most `token_budget` tokens (at least one example), and add
    empty ones (an example of weight 0) until their number is a multiple of `multiple`."""
    layout = layout or Layout()
    groups: list[list[Example]] = []
    used = 0
    for example in sorted(share, key=lambda example: (example.length, example.key)):
        width = example.length - 1
        size = layout.size(example.rows, width)
        # Rows get longer, so that padding widens all rows of a micro-batch to this one's.
        before = used if layout.packing else len(groups[-1]) * size if groups else 0
        if groups and before + size <= token_budget:
            groups[-1].append(example)
            used += size
        else:
            groups.append([example])
            used = size
    groups += [[replace(groups[0][0], weight=0.0)]] * (-len(groups) % multiple)
    if layout.uniform:
        part = layout.part
        longest = max(sum(layout.size(example.rows, 0) for example in group) for group in groups)
        step = part.multiple * (2 * part.ranks if part.ranks > 1 else 1)
        share_of_step = -(-longest // step)
        layout = replace(layout, part=replace(part, multiple=part.multiple * share_of_step))
    return [_micro_batch(group, device, layout) for group in groups]


def score_margins(examples: Sequence[Example]) -> torch.Tensor:
    """Score margin [examples] of each; NaN where it has none."""
    margins = [math.nan if example.score_margin is None else example.score_margin for example in examples]
    return torch.tensor(margins, dtype=torch.float32)


def example_facts(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """The examples' facts, each [examples]."""
    return {name: torch.tensor([example.facts[name] for example in examples]) for name in examples[0].facts}


def _micro_batch(group: Sequence[Example], device: torch.device, layout: Layout) -> MicroBatch:
    rows = [row for example in group for row in example.rows]
    packing = None
    if layout.packing:
        nested = [example.rows for example in group]
        tokens, packing, loss = pack(nested, layout.share_prompts, layout.loss_logits_only, layout.part, device)
    else:
        tokens, loss = pad(rows, layout.loss_logits_only, layout.part.multiple, device)

    def numbers(values: Sequence[object]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    return MicroBatch(
        keys=[example.key for example in group],
        tokens=tokens,
        packing=packing,
        loss=loss,
        row_lengths=numbers([float(row.weights[1:].sum()) for row in rows]),
        reference=numbers([example.reference for example in group]),
        example_weights=numbers([example.weight for example in group]),
        score_margins=score_margins(group).to(device),
        facts={name: values.to(device) for name, values in example_facts(group).items()},
    )
