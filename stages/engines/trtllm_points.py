"""The points of the `trtllm` engine's self-test: what it relies on, asked of the library that is installed.

Each point is a function of a `Bench` and gives what was seen, with True where the library does as the engine expects,
False where it does otherwise, and None where this model or release does not show it.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from stages.config import Sampling
from stages.engines.protocol import Completion, Request
from stages.engines.trtllm import TrtllmEngine
from stages.engines.trtllm_watch import Arrivals, StalledError, returns_within

QUESTION = "Name three rivers of Europe, one per line. Then stop."
GREEDY = Sampling(temperature=0, top_p=0.95, top_k=40, max_tokens=48)
WHOLE = Sampling(max_tokens=48)
SAMPLED = Sampling(temperature=0.8, top_p=0.95, max_tokens=48)
NATS_PER_TOKEN = 0.03
"""How far two computations of a bfloat16 model may lie apart."""
Seen = tuple[bool | None, str]
"""A verdict (None: it does not show), and what was seen."""


class Bench:
    """An opened engine, and requests to it or past it."""

    def __init__(self, engine: TrtllmEngine) -> None:
        self.engine = engine
        self.prompt = tuple(engine.chat.encode([{"role": "user", "content": QUESTION}]))

    def ask(self, prompt: Sequence[int], sampling: Sampling, seeds: Sequence[int] = (0,)) -> list[Completion]:
        """The engine's completions of one prompt, in the order of the seeds."""
        requests = [Request(f"{index:06d}", tuple(prompt), seed) for index, seed in enumerate(seeds)]
        return sorted(self.engine.generate(requests, sampling), key=lambda one: one.request_id)

    def raw(self, prompt: Sequence[int], **parameters: Any) -> Any:
        """The library's own `RequestOutput`, or the exception in its place. Greedy, unless parameters say otherwise."""
        chosen = {"temperature": 0.0, "max_tokens": 48, **parameters}
        arrivals = Arrivals(self.engine.settings.stall_seconds)
        try:
            future = self.engine.llm.generate_async(
                {"prompt_token_ids": list(prompt)}, self.engine.library.SamplingParams(**chosen)
            )
        except Exception as error:
            return error
        arrivals.expect(Request("raw", tuple(prompt), 0), future)
        return arrivals.next()[1]

    def output(self, prompt: Sequence[int], **parameters: Any) -> Any:
        """The library's own `CompletionOutput`; raises what the request came back with instead."""
        result = self.raw(prompt, **parameters)
        if isinstance(result, BaseException):
            raise result
        return result.outputs[0]

    def long_prompt(self, tokens: int) -> tuple[int, ...]:
        """So many tokens: the question, over and over."""
        return (self.prompt * (tokens // len(self.prompt) + 1))[:tokens]


def versions(bench: Bench) -> Seen:
    """Of what decides how the library behaves."""
    found = [f"tensorrt_llm {bench.engine.library.__version__}", bench.engine.sampler]
    for name in ("torch", "transformers", "flashinfer-python", "numpy"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"no {name}")
    return True, ", ".join(found)


def greedy(bench: Bench) -> Seen:
    """Temperature 0 is greedy beside top_p and top_k, too."""
    plain = bench.output(bench.prompt, detokenize=False).token_ids
    answers = bench.ask(bench.prompt, GREEDY, range(4))
    same = [one.token_ids[: len(plain)] == list(plain)[: len(one.token_ids)] for one in answers]
    first = {one.token_ids[:1][0] if one.token_ids else None for one in answers} == {plain[0]}
    # Reused blocks change the last bits of logits (#15503): later tokens may differ in sound engines.
    return (True if all(same) else None) if first else False, f"{sum(same)} of {len(same)} equal: {answers[0].text!r}"


def samples_differ(bench: Bench) -> Seen:
    """Votes on one prompt are different samples."""
    distinct = len({tuple(one.token_ids) for one in bench.ask(bench.prompt, WHOLE, range(8))})
    return distinct > 1, f"{distinct} distinct of 8"


def temperature_acts(bench: Bench) -> Seen:
    """Beside top_p, which made TorchSampler of 1.0 forget it: near 0 every sample begins as the greedy one."""
    cold = Sampling(temperature=0.01, top_p=0.95, max_tokens=1)
    first = {one.token_ids[0] for one in bench.ask(bench.prompt, cold, range(16)) if one.token_ids}
    hot = Sampling(temperature=100.0, top_p=0.95, max_tokens=1)
    spread = {one.token_ids[0] for one in bench.ask(bench.prompt, hot, range(16)) if one.token_ids}
    return len(first) == 1 < len(spread), f"first tokens of 16: {len(first)} at 0.01, {len(spread)} at 100"


def seeds(bench: Bench) -> Seen:
    """A seed gives the same sample alone and among others, if the engine says so."""
    among = bench.ask(bench.prompt, SAMPLED, range(8))
    alone = [bench.ask(bench.prompt, SAMPLED, [seed])[0] for seed in range(8)]
    same = sum(one.token_ids == other.token_ids for one, other in zip(among, alone, strict=True))
    seen = f"{same} of 8 the same alone and in a batch; the engine says that seeds are "
    if bench.engine.seeds_honoured:
        return same > 4, seen + "honoured"
    return None if same > 4 else True, seen + "not honoured"


def end_of_sequence(bench: Bench) -> Seen:
    """TorchSampler keeps the end id in the tokens, TRTLLMSampler drops it."""
    output = bench.output(bench.prompt, max_tokens=400, detokenize=False)
    if output.finish_reason != "stop" or output.stop_reason is not None:
        return None, f"the answer did not end with the end id: {output.finish_reason}, {output.stop_reason}"
    kept = bool(output.token_ids) and output.token_ids[-1] == bench.engine.llm.tokenizer.eos_token_id
    return kept == (bench.engine.sampler == "TorchSampler"), f"{bench.engine.sampler} {'keeps' if kept else 'drops'} it"


def finish_reason(bench: Bench) -> Seen:
    """`length`, for an answer that the limit cuts."""
    output = bench.output(bench.prompt, max_tokens=1, detokenize=False)
    seen = f"{output.finish_reason!r} after {len(output.token_ids)} of 1 tokens"
    if output.finish_reason == "stop":
        return None, seen
    return (output.finish_reason, len(output.token_ids)) == ("length", 1), seen


def stop_ids(bench: Bench) -> Seen:
    """A stop id ends the answer, is trimmed from it, and named as the reason."""
    tokens = list(bench.output(bench.prompt, detokenize=False).token_ids)
    if len(tokens) < 2 or tokens[1] == tokens[0]:
        return None, f"the greedy answer has too little: {tokens}"
    output = bench.output(bench.prompt, detokenize=False, stop_token_ids=[tokens[1]])
    found = (list(output.token_ids), output.finish_reason, output.stop_reason)
    return found == (tokens[:1], "stop", tokens[1]), f"stopping {tokens[:2]} at the second gave {found}"


def log_probabilities(bench: Bench) -> Seen:
    """At temperature 1 they are the model's own: of an answer as sampled, and read again as a prompt."""
    if bench.engine.sampler != "TorchSampler":
        return None, f"{bench.engine.sampler} is not asked for them"
    output = bench.output(bench.prompt, temperature=1.0, top_k=1, top_p=1.0, logprobs=1, detokenize=False)
    tokens = list(output.token_ids)
    again = bench.output([*bench.prompt, *tokens], prompt_logprobs=1, max_tokens=1, detokenize=False).prompt_logprobs
    # A row tells of the next token, or of its own: that is not documented.
    told = max((told_twice(tokens, output.logprobs, rows) for rows in ((again or [])[:-1], again or [])), key=len)
    sampled = bench.ask(bench.prompt, WHOLE)[0].logprob
    seen = f"of {len(tokens)} greedy tokens {len(told)} told twice; of a whole sample: {sampled}"
    if sampled is not None and sampled > 0:
        return False, seen
    if not told:
        return None, seen
    apart = sum(told) / len(told)
    return apart < NATS_PER_TOKEN, f"{seen}; {apart:.4f} nats apart per token"


def told_twice(tokens: Sequence[int], told: Sequence[Any], rows: Sequence[Any]) -> list[float]:
    """How far (nats) two computations lie apart on each of `tokens` that both tell; `rows` end with those of them."""
    both = zip(tokens, told, rows[-len(tokens) :], strict=False)
    return [abs(one[t].logprob - two[t].logprob) for t, one, two in both if t in one and two and t in two]


def chunked_prefill(bench: Bench) -> Seen:
    """A prompt that is longer than a step is answered, and again the same with its blocks reused."""
    settings = bench.engine.settings
    if settings.max_sequence_length <= settings.trtllm.max_num_tokens + 16:
        return None, "not used: no prompt is longer than max_num_tokens"
    prompt = bench.long_prompt(settings.max_sequence_length - 16)
    answers = [bench.ask(prompt, Sampling(temperature=0, max_tokens=16))[0] for _ in range(2)]
    if wrong := [one.error for one in answers if one.error]:
        return False, f"{len(prompt)} tokens: {wrong[0]}"
    same = answers[0].token_ids == answers[1].token_ids
    return True if same else None, f"{len(prompt)} tokens, {'the same' if same else 'another answer'} the second time"


def too_long_a_prompt(bench: Bench) -> Seen:
    """It costs its request alone."""
    size = bench.engine.settings.max_sequence_length + 1
    refused = bench.raw(bench.long_prompt(size), max_tokens=1)
    after = bench.ask(bench.prompt, GREEDY)[0]
    sound = isinstance(refused, bench.engine.library.llmapi.RequestError | ValueError) and not after.error
    return sound, f"{size} tokens: {type(refused).__name__} {refused}; then {after.finish_reason}"


def block_reuse(bench: Bench) -> Seen:
    """The second request finds the blocks of the first."""
    prompt = bench.long_prompt(300)
    hits = [getattr(bench.raw(prompt, max_tokens=1), "cached_tokens", None) for _ in range(2)]
    if hits[1] is None:
        return None, "this release does not tell"
    return (hits[1] > 0) == bench.engine.settings.trtllm.block_reuse, f"{hits[1]} of {len(prompt)} tokens reused"


def text(bench: Bench) -> Seen:
    """What the library would show is what we decode; without `detokenize` it shows nothing."""
    shown = bench.output(bench.prompt, detokenize=True)
    ours = bench.engine.chat.decode(shown.token_ids)
    quiet = bench.output(bench.prompt, detokenize=False)
    return (shown.text, quiet.text) == (ours, ""), f"library {shown.text!r}, ours {ours!r}, without {quiet.text!r}"


def a_crowd(bench: Bench) -> Seen:
    """More requests than fit one batch are all answered."""
    count = 3 * bench.engine.settings.trtllm.max_batch_size
    started = time.monotonic()
    answers = bench.ask(bench.prompt, SAMPLED, range(count))
    rate = sum(len(one.token_ids) for one in answers) / (time.monotonic() - started)
    wrong = [one.error for one in answers if one.error]
    return len(answers) == count and not wrong, f"{len(answers)} of {count}, {rate:.0f} tokens/s, errors {wrong[:1]}"


def watchdog(bench: Bench) -> Seen:
    """Who waits for an answer that does not come is told so."""
    parameters = bench.engine.library.SamplingParams(max_tokens=200, temperature=0.0, ignore_eos=True)
    future = bench.engine.llm.generate_async({"prompt_token_ids": list(bench.prompt)}, parameters)
    arrivals = Arrivals(0.001)
    arrivals.expect(Request("slow", bench.prompt, 0), future)
    try:
        arrivals.next()
        return False, "an answer came within a millisecond"
    except StalledError as error:
        told = str(error)

    def wait() -> None:
        while arrivals.awaited:
            with suppress(StalledError):
                arrivals.next()

    came = returns_within(bench.engine.settings.stall_seconds, wait)
    return came, f"told: {told[:40]}...; then the answer {'came' if came else 'never came'}"


POINTS: list[Callable[[Bench], Seen]] = [
    *(versions, greedy, samples_differ, temperature_acts, seeds, end_of_sequence, finish_reason, stop_ids),
    *(log_probabilities, chunked_prefill, too_long_a_prompt, block_reuse, text, a_crowd, watchdog),
]
