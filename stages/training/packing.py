"""Packed micro-batches: many token sequences in one row, without padding, each blind to the others.

What the rows of an example have in common at their start (the prompt of a pair) is laid down once; what differs
follows as branches, each of which sees the common part and itself. Positions start anew with each example. Nothing is
approximated: a token meets exactly the keys, at exactly the positions, that it would meet in a row of its own.

A pair with prompt `P`, chosen `c` and rejected `r`, then a supervised example `e`, then padding:

    pack       P P P  c c c c  r r  e e e e e  0
    position   0 1 2  3 4 5 6  3 4  0 1 2 3 4  0

    queries    keys                  each query sees the keys up to itself
    P P P      P P P
    c c c c    P P P  c c c c
    r r        P P P           r r
    e e e e e                        e e e e e

The output at a token predicts the next one of its row: at the last `P`, both the first `c` and the first `r`. The last
token of a row is only predicted, never laid down.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch


@dataclass(frozen=True)
class Row:
    """One token sequence. `weights[i]` weighs the log-probability of `tokens[i]`; 0 where there is no loss."""

    tokens: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class Block:
    """Consecutive queries of one sequence, and the keys that the last of them sees, in order; each query before it
    sees one key less. `queries` counts in this rank's tokens, `keys` in all tokens of the pack."""

    queries: slice
    keys: tuple[slice, ...]


@dataclass(frozen=True)
class Segments:
    """A pack's blocks as one variable-length call takes them: of the tokens that stand one after the other, block i has
    the queries from `query_starts[i]` to `query_starts[i + 1]` and, once gathered, the keys likewise."""

    gather: torch.Tensor | None  # [t]: where each key is found in the (joined) pack; None: they stand as they are
    query_starts: torch.Tensor  # [blocks + 1], int32
    key_starts: torch.Tensor  # [blocks + 1], int32
    longest_queries: int  # rounded up to a multiple of 64
    longest_keys: int


@dataclass(frozen=True)
class Packing:
    """How a packed row is to be read. Travels through Megatron in the place of its `PackedSeqParams`."""

    positions: torch.Tensor  # [s]: position of each of this rank's tokens within its sequence
    blocks: tuple[Block, ...]
    order: torch.Tensor | None = None  # [S]: where each token of the pack stands once the ranks' parts are joined
    masks: dict[Any, torch.Tensor] = field(default_factory=dict, repr=False)  # kept from one layer to the next
    qkv_format: str = "packed"  # Megatron asks for these two
    cp_group: None = None

    @cached_property
    def segments(self) -> Segments:
        """The blocks for a variable-length call; made once, for all layers."""
        device = self.positions.device
        queries = [block.queries.stop - block.queries.start for block in self.blocks]
        keys = [sum(part.stop - part.start for part in block.keys) for block in self.blocks]
        found = np.concatenate([np.r_[block.keys] for block in self.blocks])
        gather = None
        if self.order is not None:
            gather = self.order[torch.from_numpy(found).to(device)]
        elif not np.array_equal(found, np.arange(len(found))):
            gather = torch.from_numpy(found).to(device)
        return Segments(gather, _starts(queries, device), _starts(keys, device), _round_up(queries), _round_up(keys))


@dataclass(frozen=True)
class Loss:
    """The predictions that count: `hidden[i]` is the token (of this rank) whose output predicts `labels[i]`."""

    hidden: torch.Tensor  # [n]
    labels: torch.Tensor  # [n]
    weights: torch.Tensor  # [n]
    rows: torch.Tensor  # [n]: the row that each prediction belongs to


@dataclass(frozen=True)
class Part:
    """Where a pack is cut: this rank's `rank` of `ranks` context-parallel parts, lengths a multiple of `multiple`."""

    rank: int = 0
    ranks: int = 1
    multiple: int = 1


WHOLE = Part()


def common_prefix(rows: Sequence[Row]) -> int:
    """Number of tokens that all rows' inputs (all tokens but the last) start with."""
    shortest = min(len(row.tokens) for row in rows) - 1
    same = np.all([row.tokens[:shortest] == rows[0].tokens[:shortest] for row in rows], axis=0)
    return int(shortest if same.all() else np.argmin(same))


def packed_length(rows: Sequence[Row], share: bool) -> int:
    """Tokens that an example takes in a pack."""
    shared = common_prefix(rows) if share and len(rows) > 1 else 0
    return shared + sum(len(row.tokens) - 1 - shared for row in rows)


def pack(
    examples: Sequence[Sequence[Row]], share: bool, loss_only: bool, part: Part, device: torch.device
) -> tuple[torch.Tensor, Packing, Loss]:
    """Lay the rows of several examples one after the other: tokens [1, s] of this rank's part, how to read them, and
    the predictions that count there (all of them, whatever their weight, unless `loss_only`)."""
    whole = _Pack()
    for rows in examples:
        whole.add(rows, share, loss_only)
    if padding := -whole.length % (part.multiple * (2 * part.ranks if part.ranks > 1 else 1)):
        whole.lay(np.zeros(padding, dtype=np.int64), 0)
    mine = _mine(whole.length, part)
    local = np.full(whole.length, -1)  # where this rank holds a token of the pack; -1: nowhere
    local[mine] = np.arange(len(mine))
    order = None if part.ranks == 1 else torch.from_numpy(np.argsort(_joined(whole.length, part.ranks))).to(device)
    positions = torch.from_numpy(np.concatenate(whole.positions)[mine]).to(device)
    blocks = tuple(_blocks(whole.sequences, local, whole.length, part))
    found = _Predictions.joined(whole.predictions)
    here = local[found.places] >= 0
    held = _Predictions(local[found.places[here]], *(values[here] for values in found[1:]))
    tokens = torch.from_numpy(np.concatenate(whole.tokens)[mine]).to(device)
    return tokens[None], Packing(positions, blocks, order), held.loss(device)


def pad(rows: Sequence[Row], loss_only: bool, multiple: int, device: torch.device) -> tuple[torch.Tensor, Loss]:
    """The plain alternative: one row a sequence, padded on the right to a multiple of `multiple`; tokens
    [rows, width], and the predictions that count, `hidden` counting through [width, rows] as Megatron lays them."""
    width = max(len(row.tokens) for row in rows) - 1
    width += -width % multiple
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    found = []
    for number, row in enumerate(rows):
        tokens[number, : len(row.tokens) - 1] = row.tokens[:-1]
        found.append(_Predictions.of(row, np.arange(width) * len(rows) + number, number, loss_only))
    return torch.from_numpy(tokens).to(device), _Predictions.joined(found).loss(device)


class _Predictions(NamedTuple):
    """Predictions that count, as arrays of equal length."""

    places: np.ndarray  # int64: the token whose output predicts
    labels: np.ndarray  # int64
    weights: np.ndarray  # float32
    rows: np.ndarray  # int64

    @classmethod
    def of(cls, row: Row, places: np.ndarray, number: int, loss_only: bool) -> "_Predictions":
        """Those of row `number`, whose tokens but the last lie at `places`."""
        weights = row.weights[1:].astype(np.float32)
        counted = weights != 0 if loss_only else np.ones(len(weights), dtype=bool)
        labels = row.tokens[1:][counted].astype(np.int64)
        return cls(places[: len(weights)][counted], labels, weights[counted], np.full(len(labels), number))

    @classmethod
    def joined(cls, parts: Sequence["_Predictions"]) -> "_Predictions":
        """All of them, one after the other."""
        return cls(*(np.concatenate(values) for values in zip(*parts, strict=True)))

    def loss(self, device: torch.device) -> Loss:
        """The same as tensors."""
        return Loss(*(torch.from_numpy(np.ascontiguousarray(values)).to(device) for values in self))


class _Pack:
    """A pack that grows by one example after the other."""

    def __init__(self) -> None:
        self.length, self.rows = 0, 0
        self.tokens: list[np.ndarray] = []
        self.positions: list[np.ndarray] = []
        self.sequences: list[tuple[int, tuple[slice, ...]]] = []
        """Where the queries of each run start, and its keys."""
        self.predictions: list[_Predictions] = []

    def add(self, rows: Sequence[Row], share: bool, loss_only: bool) -> None:
        """Lay down an example: what its rows share (if they are to), then the rest of each."""
        shared = common_prefix(rows) if share and len(rows) > 1 else 0
        prefix = self.lay(rows[0].tokens[:shared], 0)
        for row in rows:
            branch = self.lay(row.tokens[shared:-1], shared, (prefix,) if shared else ())
            places = np.r_[prefix.start : prefix.stop, branch.start : branch.stop]
            self.predictions.append(_Predictions.of(row, places, self.rows, loss_only))
            self.rows += 1

    def lay(self, ids: np.ndarray, position: int, before: tuple[slice, ...] = ()) -> slice:
        """Lay down a run of tokens that begins at `position` of its sequence and sees `before` too; returns its
        place."""
        here = slice(self.length, self.length + len(ids))
        self.tokens.append(ids)
        self.positions.append(np.arange(position, position + len(ids)))
        if len(ids):
            self.sequences.append((here.start, (*before, here)))
        self.length = here.stop
        return here


def _starts(lengths: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.cumsum([0, *lengths])).to(device=device, dtype=torch.int32)


def _round_up(lengths: Sequence[int]) -> int:
    """The longest length as a multiple of 64: cuDNN 9.6 wants that, and fewer sizes make fewer kernels to plan."""
    return -(-max(lengths) // 64) * 64


def _chunks(length: int, rank: int, ranks: int) -> list[range]:
    """A rank's ranges: one from the front and one from the back, so that all ranks have as much to attend to."""
    if ranks == 1:
        return [range(length)]
    size = length // (2 * ranks)
    return [range(i * size, (i + 1) * size) for i in (rank, 2 * ranks - 1 - rank)]


def _mine(length: int, part: Part) -> np.ndarray:
    return np.concatenate([np.array(chunk) for chunk in _chunks(length, part.rank, part.ranks)])


def _joined(length: int, ranks: int) -> np.ndarray:
    return np.concatenate([_mine(length, Part(rank, ranks)) for rank in range(ranks)])


def _blocks(
    sequences: Sequence[tuple[int, tuple[slice, ...]]], local: np.ndarray, length: int, part: Part
) -> list[Block]:
    """The sequences' queries as far as this rank holds them, in the order of its tokens."""
    blocks = []
    for chunk in _chunks(length, part.rank, part.ranks):
        for start, (*before, own) in sequences:
            first, last = max(start, chunk.start), min(own.stop, chunk.stop)
            if first < last:
                queries = slice(int(local[first]), int(local[last - 1]) + 1)
                blocks.append(Block(queries, (*before, slice(own.start, last))))
    return blocks
