"""What every engine takes and gives: requests in, completions out, matched by id."""

from collections.abc import Iterable, Iterator, Sequence
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

    `token_ids` end with the stop token if `finish_reason` is `stop` (or with the token that completed a stop string of
    the sampling settings); `text` never shows it. `logprob` is the sum
    over `token_ids` of the model's log-probabilities at temperature 1 (None where the engine does not tell).
    A request that failed alone has `finish_reason` `error`, no tokens, and the engine's words in `error`.
    """

    request_id: str
    text: str
    token_ids: list[int]
    finish_reason: str
    logprob: float | None = None
    error: str | None = None
    refused: bool = False
    """Whether it failed for what it is, so that asking again would not help."""
    cached: float | None = None
    """Share of the prompt's tokens that the engine had computed before; None where it does not tell."""


def refusal(request: Request, sampling: Sampling, max_sequence_length: int) -> str | None:
    """Why no engine is asked: where there is too little room for an answer, most would cut it without a word."""
    prompt = len(request.prompt_token_ids)
    if not prompt:
        return "the prompt is empty"
    if prompt + sampling.max_tokens > max_sequence_length:
        return (
            f"prompt ({prompt} tokens) and answer (up to {sampling.max_tokens}) exceed engine.max_sequence_length "
            f"({max_sequence_length})"
        )
    return None


def failed(request: Request, error: str, refused: bool = False) -> Completion:
    """The completion of a request that failed alone."""
    return Completion(request.request_id, "", [], "error", error=error, refused=refused)


def prompts_together(requests: Iterable[Request]) -> list[Request]:
    """The requests with the samples of a prompt next to each other, and prompts of the same beginning near each other:
    an engine that keeps what it has computed finds it again."""
    return sorted(requests, key=lambda request: (request.prompt_token_ids, request.request_id))


class Engine(Protocol):
    """A loaded model that answers requests."""

    @property
    def seeds_honoured(self) -> bool:
        """Whether a request's seed alone decides its sample (up to floating-point effects of batching)."""
        ...

    @property
    def exact_tokens(self) -> bool:
        """Whether `token_ids` are those that were sampled, and not their text encoded anew."""
        ...

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion per request, in any order, as they finish."""
        ...
