"""What servers of the OpenAI protocol honour beyond it, how they are asked for it, and what they give back.

Each ignores, clamps or scales something of its own without a word. All fields that steer the draw are always sent, as
some servers fill what is left out from `generation_config.json`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stages.config import Sampling
from stages.engines.protocol import Request

Body = dict[str, Any]
Found = Mapping[str, Any]
OPTIONS = frozenset({"top_k", "min_p", "repetition_penalty", "stop"})
"""Sampling settings that not all engines have."""


class Answer(NamedTuple):
    """A sample as the server gives it: `ids` and `logprobs` (nats, per token) are None where it does not tell."""

    text: str
    ids: list[int] | None
    finish_reason: str | None
    logprobs: list[float] | None
    stopped_at: int | str | None = None
    """The stop token or stop text that ended it, where it tells."""
    cached: float | None = None
    """Share of the prompt's tokens that it found in its cache, where it tells (vLLM and SGLang with a flag)."""


class Dialect(NamedTuple):
    """One kind of server."""

    honoured: frozenset[str]
    """Those of OPTIONS that it does not ignore."""
    body: Callable[[Request, Sampling, Sequence[int]], Body]
    """The JSON of a request, but for the model's name; given the ids that end an answer."""
    read: Callable[[Found], Answer]
    """The sample in a response. Raises LookupError, TypeError or ValueError if there is none."""
    path: str = "/v1/completions"


def _protocol(request: Request, sampling: Sampling, _: Iterable[int]) -> Body:
    return {
        "prompt": list(request.prompt_token_ids),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": request.seed % 2**63,
        "n": 1,
        "stream": False,
        **({"stop": sampling.stop} if sampling.stop else {}),
    }


def _with_ids(request: Request, sampling: Sampling, stop_ids: Sequence[int]) -> Body:
    return _protocol(request, sampling, stop_ids) | {
        "top_k": sampling.top_k or -1,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "stop_token_ids": list(stop_ids),
        "ignore_eos": False,
        "skip_special_tokens": False,
        "return_token_ids": True,
        "logprobs": 0,
    }


def _sglang(request: Request, sampling: Sampling, stop_ids: Sequence[int]) -> Body:
    return _with_ids(request, sampling, stop_ids) | {"no_stop_trim": True, "logprobs": 1}


def _trtllm(request: Request, sampling: Sampling, stop_ids: Sequence[int]) -> Body:
    # It refuses fields that it does not know, and gives ids only where it gives no text.
    return _protocol(request, sampling, stop_ids) | {
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "stop_token_ids": list(stop_ids),
        "detokenize": False,
        "logprobs": 1,
    }


def _llamacpp(request: Request, sampling: Sampling, _: Sequence[int]) -> Body:
    return {
        "prompt": list(request.prompt_token_ids),
        "n_predict": sampling.max_tokens,
        "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repetition_penalty,
        "repeat_last_n": len(request.prompt_token_ids) + sampling.max_tokens,
        "seed": request.seed % 2**32,
        "stop": sampling.stop,
        "n_probs": 1,
        "return_tokens": True,
        # What a slot has kept of another prompt changes the sample.
        "cache_prompt": False,
    }


def _read_choice(found: Found) -> Answer:
    choice = found["choices"][0]
    ids, logs = choice.get("token_ids"), choice.get("logprobs") or {}
    return Answer(
        str(choice["text"]),
        None if ids is None else [int(token) for token in ids],
        choice["finish_reason"],
        [float(value) for value in logs.get("token_logprobs") or ()] or None,
        choice.get("stop_reason"),
        _cached(found.get("usage") or {}),
    )


def _cached(usage: Found) -> float | None:
    found = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    return None if found is None or not usage.get("prompt_tokens") else found / usage["prompt_tokens"]


def _read_llamacpp(found: Found) -> Answer:
    reasons = {"eos": "stop", "word": "stop", "limit": "length"}
    logprobs = [float(entry["logprob"]) for entry in found.get("completion_probabilities") or ()]
    ids = [int(token) for token in found["tokens"]]
    return Answer(str(found["content"]), ids, reasons.get(found["stop_type"]), logprobs or None)


DIALECTS = {
    "vllm": Dialect(OPTIONS, _with_ids, _read_choice),
    "sglang": Dialect(OPTIONS, _sglang, _read_choice),
    "trtllm": Dialect(OPTIONS - {"stop"}, _trtllm, _read_choice),
    # Its own endpoint: the protocol's leaves out tokens that end within a character.
    "llamacpp": Dialect(OPTIONS, _llamacpp, _read_llamacpp, "/completion"),
    "openai": Dialect(frozenset({"stop"}), _protocol, _read_choice),
}
