"""From requests to completions on a loaded model: who enters when, one token more for all, who has finished."""

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import groupby, takewhile
from typing import Any

import torch
from torch import Tensor

from stages.config import Sampling
from stages.engines.cohort import Cohort, Drawn
from stages.engines.protocol import Completion, Request
from stages.engines.shared_prefix import Attention, Decode, Head, Prefill, attending
from stages.prompting.chat import ChatTokenizer

PREFILL_TOKENS = 2048
"""Prompt tokens in one forward pass: bounds the activations, which `batch_tokens` does not."""
REFILL_SHARE = 4
"""Waiting requests enter when one part in so many of `batch_tokens` is free: fewer and larger cohorts cost less."""

TOKENS_BEFORE_STOP = 8
"""Tokens decoded before those that could make a stop string: the first ones of a text may lack a space or a byte."""


class Decoding:
    """One call of `generate`; iterate over it to get the completions as they finish."""

    def __init__(
        self, model: Any, chat: ChatTokenizer, requests: Sequence[Request], sampling: Sampling, batch_tokens: int
    ):
        self._model, self._chat, self._sampling, self._budget = model, chat, sampling, batch_tokens
        self._device = str(model.device)
        self._stops = torch.tensor(sorted(chat.stop_ids), device=model.device)
        self._waiting = deque(in_order(requests))
        self._shared = shared_head([request.prompt_token_ids for request in requests])
        self._head = Head()
        self._cohorts: list[Cohort] = []

    def __iter__(self) -> Iterator[Completion]:
        while self._waiting or self._cohorts:
            yield from self._advance()

    @torch.inference_mode()
    def _advance(self) -> list[Completion]:
        """Draw one token more of every sample, then the first one of those that may enter."""
        finished = []
        if self._cohorts:
            logits = self._decode()
            for cohort, part in zip(self._cohorts, logits.split([len(c) for c in self._cohorts]), strict=True):
                finished += self._draw(cohort, part)
        entering = self._enter()
        if entering:
            finished += self._draw(entering, self._prefill(entering)[entering.owners])
            self._cohorts.append(entering)
        self._cohorts = [cohort for cohort in self._cohorts if len(cohort)]
        return [self._completion(drawn) for drawn in finished]

    def _enter(self) -> Cohort | None:
        """The next requests that there is room for, if it is worth while."""
        room = self._budget - len(self._shared) - sum(cohort.memory.tokens for cohort in self._cohorts if len(cohort))
        alone = not any(map(len, self._cohorts))
        if not self._waiting or (not alone and room < self._budget // REFILL_SHARE):
            return None
        count = fitting(self._waiting, len(self._shared), self._sampling.max_tokens, room, alone)
        entering = [self._waiting.popleft() for _ in range(count)]
        return Cohort(entering, len(self._shared), self._sampling, self._device) if entering else None

    def _prefill(self, cohort: Cohort) -> Tensor:
        """Store the prompts' keys and values; logits after each prompt, [prompts, vocabulary]."""
        if self._shared and not self._head.states:
            self._forward(self._head, [self._shared], 0)
        start = len(self._shared)
        rests = [prompt[start:] for prompt in cohort.prompts]
        logits = []
        for numbers in packs([len(rest) for rest in rests], PREFILL_TOKENS):
            some = [rests[number] for number in numbers]
            attention = Prefill(cohort.memory, numbers, [len(rest) for rest in some], self._head)
            logits.append(self._forward(attention, some, start))
        return torch.cat(logits)

    def _forward(self, attention: Attention, prompts: Sequence[tuple[int, ...]], start: int) -> Tensor:
        """Logits [prompts, vocabulary] after the last token of each; `start` is the position of the first."""
        tokens = torch.tensor([token for prompt in prompts for token in prompt], device=self._device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self._device)
        positions = torch.cat([torch.arange(len(prompt), device=self._device) for prompt in prompts]) + start
        return self._logits(attention, tokens, positions, lengths.cumsum(0) - 1)

    def _decode(self) -> Tensor:
        """Logits [samples, vocabulary] after the newest token of every sample, whose keys and values are stored."""
        memories = [cohort.memory for cohort in self._cohorts]
        tokens = torch.cat([cohort.last for cohort in self._cohorts])
        positions = torch.cat([memory.positions() for memory in memories]) + len(self._shared)
        logits = self._logits(Decode(memories, self._head, positions), tokens, positions, 0)
        for memory in memories:
            memory.used += 1
        return logits

    def _logits(self, attention: Attention, tokens: Tensor, positions: Tensor, keep: Tensor | int) -> Tensor:
        """Float32 logits [kept tokens, vocabulary] of one forward pass; keep 0 keeps all."""
        with attending(attention):
            output = self._model(
                input_ids=tokens[None], position_ids=positions[None], use_cache=False, logits_to_keep=keep
            )
        return output.logits[0].float()

    def _draw(self, cohort: Cohort, logits: Tensor) -> list[Drawn]:
        cohort.draw(logits)
        going = ~torch.isin(cohort.last, self._stops)
        if cohort.step == self._sampling.max_tokens:
            going = torch.zeros_like(going)
        elif self._sampling.stop:
            going &= torch.tensor([not self._said_stop(cohort, row) for row in range(len(cohort))], device=going.device)
        return cohort.leave(going)

    def _said_stop(self, cohort: Cohort, row: int) -> bool:
        """Whether a sample now shows a stop string. A token has a byte at least, so that few tokens need a look."""
        length = max(len(stop.encode()) for stop in self._sampling.stop) + TOKENS_BEFORE_STOP
        return cut(self._chat.decode(cohort.tail(row, length)), self._sampling.stop) is not None

    def _completion(self, drawn: Drawn) -> Completion:
        ended = drawn.token_ids[-1] in self._chat.stop_ids
        text = self._chat.decode(drawn.token_ids[:-1] if ended else drawn.token_ids)
        before = cut(text, self._sampling.stop)
        reason = "length" if before is None and not ended else "stop"
        shown = text if before is None else before
        return Completion(drawn.request.request_id, shown, drawn.token_ids, reason, drawn.logprob, cached=drawn.cached)


def in_order(requests: Sequence[Request]) -> list[Request]:
    """Longest prompts first, so that a lack of memory shows at once; requests of one prompt are neighbours."""
    return sorted(requests, key=lambda r: (-len(r.prompt_token_ids), r.prompt_token_ids, r.request_id))


def shared_head(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest beginning of all prompts that leaves each of them a token at least."""
    if not prompts:
        return ()
    first, last = min(prompts), max(prompts)  # what these two have in common, all between them have
    room = min(map(len, prompts)) - 1
    common = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), room)
    return first[: min(common, room)]


def fitting(waiting: deque[Request], shared: int, max_tokens: int, room: int, alone: bool) -> int:
    """How many of the first requests fit into `room` tokens of keys and values, the `shared` ones of the head being
    kept already: those of whole prompts.

    `waiting` is `in_order`. If `alone`, at least one, and of the first prompt as many as fit.
    """
    longest = len(waiting[0].prompt_token_ids) - shared
    count = 0
    for prompts, (_, group) in enumerate(groupby(waiting, lambda r: r.prompt_token_ids), start=1):
        more = count + len(list(group))
        if prompts * longest + more * max_tokens > room:
            break
        count = more
    if count or not alone:
        return count
    samples = takewhile(lambda r: r.prompt_token_ids == waiting[0].prompt_token_ids, waiting)
    return min(len(list(samples)), max(1, (room - longest) // max_tokens))


def packs(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Neighbouring items in packs of `most` tokens in all; what is longer has one of its own."""
    found: list[list[int]] = []
    total = 0
    for number, length in enumerate(lengths):
        if not found or total + length > most:
            found.append([])
            total = 0
        found[-1].append(number)
        total += length
    return found


def cut(text: str, stops: Sequence[str]) -> str | None:
    """The text before the first stop string; None if there is none."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else None
