"""Samples that were prefilled together and are drawn in step."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from stages.config import Sampling
from stages.engines.protocol import Request
from stages.engines.sampling import draw, uniforms
from stages.engines.shared_prefix import Memory


class Drawn(NamedTuple):
    """A finished sample, and the sum of its tokens' log-probabilities."""

    request: Request
    token_ids: list[int]
    logprob: float
    cached: float
    """Share of its prompt that was computed for others too: that of a prompt is shared out among its samples."""


class Cohort:
    """Requests, of which those of one prompt are neighbours; each draws from its own uniform numbers.

    The first `shared` tokens of the prompts are kept elsewhere.
    """

    def __init__(self, requests: Sequence[Request], shared: int, sampling: Sampling, device: str):
        groups = [(prompt, len(list(group))) for prompt, group in groupby(requests, lambda r: r.prompt_token_ids)]
        self.prompts = [prompt for prompt, _ in groups]
        self.owners = [number for number, (_, samples) in enumerate(groups) for _ in range(samples)]
        """The prompt of each request, as all were at the beginning."""
        lengths = [len(prompt) - shared for prompt in self.prompts]
        self.memory = Memory(lengths, self.owners, sampling.max_tokens, device)
        self._cached = {prompt: 1 - (len(prompt) - shared) / (count * len(prompt)) for prompt, count in groups}
        self._requests = list(requests)
        self._sampling = sampling
        rows = len(requests)
        self._chance = uniforms([request.seed for request in requests], sampling.max_tokens).to(device)
        self._drawn = torch.zeros(rows, sampling.max_tokens, dtype=torch.long, device=device)
        self._logprobs = torch.zeros(rows, dtype=torch.float64, device=device)
        self._seen: Tensor | None = None
        self.step = 0
        """Tokens drawn so far."""

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def last(self) -> Tensor:
        """The newest token of each sample, int64 [rows]."""
        return self._drawn[:, self.step - 1]

    def tail(self, row: int, length: int) -> list[int]:
        """The newest tokens of a sample, `length` of them at most."""
        return self._drawn[row, max(0, self.step - length) : self.step].tolist()

    def draw(self, logits: Tensor) -> None:
        """Draw one token more for each sample from float32 logits [rows, vocabulary]."""
        seen = self._seen_tokens(logits.shape[-1])
        tokens, values = draw(logits, self._chance[:, self.step], self._sampling, seen)
        self._drawn[:, self.step] = tokens
        self._logprobs += values
        self.step += 1
        if seen is not None:
            seen[torch.arange(len(self), device=seen.device), tokens] = True

    def leave(self, going: Tensor) -> list[Drawn]:
        """Take out the samples that do not go on (bool [rows]); the last ones take their places."""
        rows = (~going).nonzero()[:, 0]
        if not len(rows):
            return []
        columns = zip(
            rows.tolist(), self._drawn[rows, : self.step].tolist(), self._logprobs[rows].tolist(), strict=True
        )
        finished = [self._drawn_by(self._requests[row], tokens, logprob) for row, tokens, logprob in columns]
        holes, last = moves(going)
        live = int(going.sum())
        for hole, row in zip(holes.tolist(), last.tolist(), strict=True):
            self._requests[hole] = self._requests[row]
        del self._requests[live:]
        for name in ("_chance", "_drawn", "_logprobs", "_seen"):
            state = getattr(self, name)
            if state is not None:
                state[holes] = state[last]
                setattr(self, name, state[:live])
        if live:
            self.memory.move(holes, last, live)
        return finished

    def _drawn_by(self, request: Request, tokens: list[int], logprob: float) -> Drawn:
        return Drawn(request, tokens, logprob, self._cached[request.prompt_token_ids])

    def _seen_tokens(self, vocabulary: int) -> Tensor | None:
        """The tokens of each sample and its prompt, bool [rows, vocabulary]; None where nobody asks for them."""
        if self._seen is None and self._sampling.repetition_penalty != 1:
            device = self._drawn.device
            prompts = torch.zeros(len(self.prompts), vocabulary, dtype=torch.bool, device=device)
            for number, prompt in enumerate(self.prompts):
                prompts[number, list(prompt)] = True
            self._seen = prompts[self.owners]
        return self._seen


def moves(going: Tensor) -> tuple[Tensor, Tensor]:
    """How to fill the places of finished rows: row `last[i]` moves to place `holes[i]`; then the first rows are live.

    `going` is bool [rows]; both results are int64 [moves].
    """
    live = int(going.sum())
    return (~going[:live]).nonzero()[:, 0], going[live:].nonzero()[:, 0] + live
