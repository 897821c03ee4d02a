"""Attention for samples that share their prompts: an attention function of Transformers, and what it remembers.

A forward pass sees one row of tokens without padding: prompts one after another (`Prefill`), or the newest token of
every sample (`Decode`). A prompt's keys and values are kept, and read, once for all its samples; those of the beginning
that all prompts share (`Head`), once for all prompts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

from stages.contracts.errors import StageError
from stages.engines.attention import Read, Shape, causal, merge, read

NAME = "shared_prefix"
"""The attention's name for Transformers."""


class Attention(Protocol):
    """One forward pass. Query is [tokens, heads, head_dim]; key and value, [tokens, groups, head_dim], are stored."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, shape: Shape) -> Tensor:
        """What the heads of each token read: [tokens, heads, head_dim]."""
        ...


_CURRENT: ContextVar[Attention] = ContextVar("attention of the forward pass")
"""Not a keyword argument of the model: not every one hands those down to its attention (Nemotron)."""


@contextmanager
def attending(attention: Attention) -> Iterator[None]:
    """Within, models loaded with `attn_implementation=NAME` use this attention."""
    token = _CURRENT.set(attention)
    try:
        yield
    finally:
        _CURRENT.reset(token)


@dataclass
class Layer:
    """Keys and values of one layer.

    Those of prompts are [prompts, groups, longest prompt, head_dim], those of samples [rows, groups, slots, head_dim].
    """

    prompt_keys: Tensor
    prompt_values: Tensor
    keys: Tensor
    values: Tensor


class Memory:
    """Keys and values of prompts less their head, and of the samples that continue them in step.

    Prompt i has `lengths[i]` tokens; sample i continues prompt `owners[i]`; each has room for `slots`
    tokens, of which the first `used` are stored.
    """

    def __init__(self, lengths: Sequence[int], owners: Sequence[int], slots: int, device: str):
        self.used = 0
        self._slots = slots
        self._layers: dict[int, Layer] = {}
        self._lengths = torch.tensor(lengths, device=device)
        self._longest, self._padded = max(lengths), min(lengths) < max(lengths)
        places, self._samples = seats(owners)
        self._seats = torch.tensor(places, device=device)
        self._rows = len(owners)

    @property
    def rows(self) -> int:
        """Samples that go on."""
        return len(self._seats)

    @property
    def tokens(self) -> int:
        """Tokens that there is room for."""
        return len(self._lengths) * self._longest + self._rows * self._slots

    def positions(self) -> Tensor:
        """Position of the next token of each sample, counted from the end of the head, int64 [rows]."""
        return self._lengths[self._seats // self._samples] + self.used

    def store(self, layer: int, prompt: int, keys: Tensor, values: Tensor) -> None:
        """Keep a prompt's keys and values, [tokens, groups, head_dim]."""
        if layer not in self._layers:
            _, groups, size = keys.shape
            prompts = (len(self._lengths), groups, self._longest, size)
            # What pads a prompt is weighted with 0, and must not be NaN.
            made = [keys.new_zeros(prompts) for _ in range(2)]
            made += [keys.new_empty(self._rows, groups, self._slots, size) for _ in range(2)]
            self._layers[layer] = Layer(*made)
        kept = self._layers[layer]
        kept.prompt_keys[prompt, :, : len(keys)] = keys.transpose(0, 1)
        kept.prompt_values[prompt, :, : len(keys)] = values.transpose(0, 1)

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, shape: Shape) -> list[Read]:
        """Store the newest token of each sample, and read from its prompt and from the sample itself.

        Query is [rows, groups, heads of a group, head_dim], and so is what is read.
        """
        kept, end = self._layers[layer], self.used + 1
        kept.keys[: self.rows, :, self.used] = key
        kept.values[: self.rows, :, self.used] = value
        start = max(0, end - shape.window) if shape.window else 0
        keys, values = (states[: self.rows, :, start:end] for states in (kept.keys, kept.values))
        return [self._of_prompts(kept, query, shape), read(query, keys, values, shape)]

    def move(self, holes: Tensor, last: Tensor, rows: int) -> None:
        """Row `last[i]` takes the place of row `holes[i]`; then only the first `rows` go on."""
        for layer in self._layers.values():
            for states in (layer.keys, layer.values):
                states[holes, :, : self.used] = states[last, :, : self.used]
        self._seats[holes] = self._seats[last]
        self._seats = self._seats[:rows]
        self.__dict__.pop("_sitting", None)
        if rows <= self._rows // 2:
            self._shrink()

    def _shrink(self) -> None:
        """Free the places of samples and prompts that have left."""
        prompts = (self._seats // self._samples).unique()
        self._lengths = self._lengths[prompts]
        self._longest, self._rows = int(self._lengths.max()), self.rows
        owners = torch.searchsorted(prompts, self._seats // self._samples)
        self._seats = owners * self._samples + self._seats % self._samples
        for layer in self._layers.values():
            layer.prompt_keys = layer.prompt_keys[prompts, :, : self._longest]
            layer.prompt_values = layer.prompt_values[prompts, :, : self._longest]
            layer.keys, layer.values = (self._shorter(states) for states in (layer.keys, layer.values))

    def _shorter(self, states: Tensor) -> Tensor:
        fewer = states.new_empty(self._rows, *states.shape[1:])
        fewer[:, :, : self.used] = states[: self._rows, :, : self.used]
        return fewer

    @cached_property
    def _sitting(self) -> Tensor:
        """The sample on each seat, int64 [prompts x samples of one]; any, where it has left."""
        sitting = self._seats.new_zeros(len(self._lengths) * self._samples)
        sitting[self._seats] = torch.arange(self.rows, device=self._seats.device)
        return sitting

    def _of_prompts(self, kept: Layer, query: Tensor, shape: Shape) -> Read:
        """What each sample reads from its prompt, of which all samples ask at once."""
        grid = query[self._sitting].unflatten(0, (-1, self._samples))
        asking = grid.transpose(1, 2).flatten(2, 3)
        found = read(asking, kept.prompt_keys, kept.prompt_values, shape, self._hidden(shape.window))
        return Read(
            *(part.unflatten(2, grid.shape[1:4:2]).transpose(1, 2).flatten(0, 1)[self._seats] for part in found)
        )

    def _hidden(self, window: int | None) -> Tensor | None:
        """Which tokens of a prompt its samples must not see, bool [prompts, 1, 1, longest]; None: they may see all."""
        if not self._padded and window is None:
            return None
        at = torch.arange(self._longest, device=self._lengths.device)
        lengths = self._lengths[:, None]
        hidden = at >= lengths
        if window is not None:
            hidden |= at <= lengths + self.used - window
        return hidden[:, None, None]


class Head:
    """The beginning that prompts share: its keys and values by layer, [tokens, groups, head_dim]."""

    def __init__(self) -> None:
        self.states: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, shape: Shape) -> Tensor:
        self.states[layer] = key, value
        return causal(query, key, value, shape)

    def attend(self, layer: int, query: Tensor, positions: Tensor, shape: Shape) -> list[Read]:
        """What samples at these positions ([rows]) read from it; nothing where prompts have no head."""
        if layer not in self.states:
            return []
        keys, values = (states.transpose(0, 1)[None] for states in self.states[layer])
        rows, _, heads, _ = query.shape
        hidden = None
        if shape.window is not None:
            at = torch.arange(keys.shape[2], device=keys.device)
            hidden = (at <= positions.repeat_interleave(heads)[:, None] - shape.window)[None, None]
        found = read(query.transpose(0, 1).flatten(1, 2)[None], keys, values, shape, hidden)
        states, logs = (part[0].unflatten(1, (rows, heads)).transpose(0, 1) for part in found)
        return [Read(states, logs)]


class Prefill:
    """Prompts `numbers` of a memory without their head, one after another; so many tokens (`lengths`) each."""

    def __init__(self, memory: Memory, numbers: Sequence[int], lengths: Sequence[int], head: Head):
        self._memory, self._numbers, self._lengths, self._head = memory, numbers, list(lengths), head

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, shape: Shape) -> Tensor:
        before = self._head.states.get(layer, (key[:0], value[:0]))
        parts = (states.split(self._lengths) for states in (query, key, value))
        read = []
        for number, asking, *own in zip(self._numbers, *parts, strict=True):
            self._memory.store(layer, number, *own)
            keys, values = (torch.cat(states) for states in zip(before, own, strict=True))
            read.append(causal(asking, keys, values, shape))
        return torch.cat(read)


class Decode:
    """The newest token of every sample, memory by memory, at these positions ([rows])."""

    def __init__(self, memories: Sequence[Memory], head: Head, positions: Tensor):
        self._memories, self._head, self._positions = memories, head, positions

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, shape: Shape) -> Tensor:
        query = query.unflatten(1, (key.shape[1], -1))
        parts = (states.split([memory.rows for memory in self._memories]) for states in (query, key, value))
        found = [memory.attend(layer, *part, shape) for memory, *part in zip(self._memories, *parts, strict=True)]
        reads = [Read(*(torch.cat(states) for states in zip(*same, strict=True))) for same in zip(*found, strict=True)]
        return merge([*self._head.attend(layer, query, self._positions, shape), *reads]).flatten(1, 2)


def seats(owners: Sequence[int]) -> tuple[list[int], int]:
    """A seat for each sample, so many to a prompt: prompt x samples of one prompt + number within the prompt."""
    taken: dict[int, int] = {}
    numbers = []
    for owner in owners:
        numbers.append(taken.setdefault(owner, 0))
        taken[owner] += 1
    samples = max(taken.values(), default=1)
    return [owner * samples + number for owner, number in zip(owners, numbers, strict=True)], samples


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    softcap: float | None = None,
    sliding_window: int | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What Transformers calls: states are [1, heads or groups, tokens, head_dim], the result is [1, tokens, ...]."""
    if s_aux is not None:
        raise StageError(f"{type(module).__name__} has attention sinks, which the torch engine does not know")
    q, k, v = (states[0].transpose(0, 1) for states in (query, key, value))
    return _CURRENT.get()(module.layer_idx, q, k, v, Shape(scaling, softcap, sliding_window))[None], None


AttentionInterface.register(NAME, _attend)
