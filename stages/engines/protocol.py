"""What every engine takes and gives: requests in, completions out, matched by id."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from stages.config import Sampling


@dataclass(frozen=True)
class Request:
    """One sample to draw: exact input tokens and the seed of this sample alone."""

    request_id: str
    prompt_token_ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Completion:
    """What came back for a request.

    `token_ids` end with the stop token if `finish_reason` is `stop`; `text` never shows it. `logprob` is the sum
    over `token_ids` of the model's log-probabilities at temperature 1 (None where the engine does not tell).
    A request that failed alone has `finish_reason` `error`, no tokens, and the engine's words in `error`.
    """

    request_id: str
    text: str
    token_ids: list[int]
    finish_reason: str
    logprob: float | None = None
    error: str | None = None


class Engine(Protocol):
    """A loaded model that answers requests."""

    seeds_honoured: bool
    """Whether a request's seed alone decides its sample (up to floating-point effects of batching)."""

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion per request, in any order, as they finish."""
        ...
