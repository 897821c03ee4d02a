"""What TensorRT-LLM is asked in which order, and what is made of its answers. Pure functions."""

from collections.abc import Iterator, Sequence
from typing import Any

from stages.engines.protocol import Completion, Request, failed
from stages.prompting.chat import ChatTokenizer


def submission_order(requests: Sequence[Request], batch: int) -> Iterator[Request]:
    """The requests in an order that lets samples of one prompt share its prefill, for `batch` requests at a time.

    Prompts are sorted, so that neighbours share prefixes, and taken as many at a time as fill a batch with all their
    samples: first one sample of each, which computes the prompt's KV blocks (stored right after prefill), then the
    others, those of a prompt adjacent. First samples of more prompts would fill the cache, and blocks be evicted before
    they are used.
    """
    samples: dict[tuple[int, ...], list[Request]] = {}
    for request in sorted(requests, key=lambda request: request.prompt_token_ids):
        samples.setdefault(request.prompt_token_ids, []).append(request)
    prompts = list(samples.values())
    window = max(1, batch * len(prompts) // max(1, len(requests)))
    for start in range(0, len(prompts), window):
        group = prompts[start : start + window]
        yield from (first for first, *_ in group)
        for _, *others in group:
            yield from others


def completion(
    request: Request, output: Any, max_tokens: int, end_id: int, stop_ids: Sequence[int], chat: ChatTokenizer
) -> Completion:
    """A `CompletionOutput` as a Completion whose tokens end with the stop token if it stopped by itself.

    The library trims a stop id from the tokens, and names it in `stop_reason`. The end id it names nowhere:
    TorchSampler leaves it in the tokens, TRTLLMSampler drops it, with its log-probability. It says `length` when a stop
    id comes as the last allowed token.
    """
    tokens, reason = list(output.token_ids), output.finish_reason
    if reason == "length" and tokens and tokens[-1] in stop_ids:
        reason = "stop"
    elif reason == "stop":
        stop = end_id if output.stop_reason is None else output.stop_reason
        tokens += [] if tokens and tokens[-1] == stop else [stop]
    elif reason != "length":
        return failed(request, f"TensorRT-LLM ended the request with finish_reason {reason!r}")
    elif len(tokens) < max_tokens:
        return failed(
            request,
            f"cut after {len(tokens)} of {max_tokens} tokens: the engine holds fewer than engine.max_sequence_length "
            "tokens; lower it or leave more memory to the KV cache",
        )
    text = chat.decode(tokens[:-1] if reason == "stop" else tokens)
    return Completion(request.request_id, text, tokens, reason, total_logprob(tokens, output.logprobs))


def total_logprob(tokens: Sequence[int], logprobs: Any) -> float | None:
    """Sum over `tokens` of the log-probabilities (nats) that came with them; None unless each token has one.

    `logprobs` has one `{token: Logprob}` per token; TorchSampler up to 1.2 tells those of the likeliest alone, among
    which the sampled token may be missing (#9374).
    """
    if not logprobs or len(logprobs) != len(tokens):
        return None
    found = [entry.get(token) for token, entry in zip(tokens, logprobs, strict=True)]
    return None if None in found else float(sum(item.logprob for item in found))
