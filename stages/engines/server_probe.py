"""What a server makes of requests, tried before it is relied on: servers ignore, clamp and scale without a word.

Tried are a seeded request alone, again, and amid others; and the log-probabilities of the same tokens at two
temperatures.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from stages.config import Sampling, ServerSettings
from stages.contracts.errors import StageError
from stages.engines.dialects import Answer
from stages.engines.http_client import RefusedError, TransientError
from stages.engines.protocol import Request
from stages.prompting.chat import ChatTokenizer

Ask = Callable[[Request, Sampling], Awaitable[Answer]]
SEEDS = 16
TOKENS = 12


class Findings(NamedTuple):
    """What a server does."""

    ids: bool = False
    """Gives back the tokens that it sampled."""
    seeds: bool = False
    """The same seed gives the same sample, also amid other requests, and other seeds give others."""
    logprobs: bool = False
    """Log-probabilities are the model's own, at temperature 1, whatever the temperature of the sample."""


async def probe(ask: Ask, chat: ChatTokenizer, server: ServerSettings) -> Findings:
    """Try the server. Raises StageError if it cannot answer at all, or gives no token ids where they are needed."""
    prompt = tuple(chat.encode([{"role": "user", "content": "Tell me something about the sea."}]))
    first = Request("probe", prompt, 1)
    sampling = Sampling(temperature=1.0, max_tokens=TOKENS)
    try:
        alone = await ask(first, sampling)
        if alone.ids is None and not server.allow_retokenised:
            raise StageError(
                f"the server gives back no token ids (engine.server.kind {server.kind}): training needs the very ones "
                "that were sampled. Set the server's kind, or engine.server.allow_retokenised"
            )
        again = await ask(first, sampling)
        many = await _together(ask, [replace(first, seed=seed) for seed in range(1, SEEDS + 1)], sampling)
        sharp = await _together(ask, [replace(first, seed=seed) for seed in range(1, SEEDS + 1)], _one(0.5))
        plain = await _together(ask, [replace(first, seed=seed) for seed in range(1, SEEDS + 1)], _one(1.0))
    except (RefusedError, TransientError) as error:
        raise StageError(f"the server does not answer a first request: {error}") from error
    seeds = _said(alone) == _said(again) == _said(many[0]) and len({_said(answer) for answer in many}) > 1
    found = Findings(alone.ids is not None, seeds, _unscaled(plain, sharp))
    print(f"server: {_told(found)}", file=sys.stderr)
    return found


def _one(temperature: float) -> Sampling:
    return Sampling(temperature=temperature, max_tokens=1)


async def _together(ask: Ask, requests: Sequence[Request], sampling: Sampling) -> list[Answer]:
    return await asyncio.gather(*(ask(request, sampling) for request in requests))


def _said(answer: Answer) -> tuple[int, ...] | str:
    return answer.text if answer.ids is None else tuple(answer.ids)


def _unscaled(plain: Sequence[Answer], sharp: Sequence[Answer]) -> bool:
    """Whether tokens that both temperatures drew have the same log-probabilities; unknown counts as no."""
    at_one, at_half = _by_token(plain), _by_token(sharp)
    common = at_one.keys() & at_half.keys()
    return bool(common) and all(abs(at_one[token] - at_half[token]) < 0.05 for token in common)


def _by_token(answers: Sequence[Answer]) -> dict[int, float]:
    return {answer.ids[0]: answer.logprobs[0] for answer in answers if answer.ids and answer.logprobs}


def _told(found: Findings) -> str:
    return "; ".join(
        (
            "gives token ids" if found.ids else "gives no token ids: texts are encoded anew",
            "honours seeds" if found.seeds else "does not honour seeds amid other requests",
            "log-probabilities at temperature 1" if found.logprobs else "no log-probabilities that could be relied on",
        )
    )
