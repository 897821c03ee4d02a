"""What happens within the double of `tensorrt_llm`: what its model writes, what it was asked, when it answers."""

import json
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

VERSIONS = ["1.0.0", "1.1.0", "1.2.0", "1.2.1", "1.3.0rc20", "1.3.0rc26"]
"""What the double can be."""
EOS = 2
"""The tokenizer's end-of-sequence id."""
TURN_END = 9
"""A second end id, which only generation_config.json names (as <|eot_id|> in Llama 3)."""
POSITIONS = 4096
"""Of the checkpoint's model."""


class RequestError(RuntimeError):
    """The library's error of a single request."""


def release(version: str) -> tuple[int, int, int, int]:
    """Numbers of a version, in its order; a candidate comes before its final release."""
    numbers, _, candidate = version.partition("rc")
    major, minor, patch = map(int, numbers.split("."))
    return major, minor, patch, int(candidate or 999)


@dataclass
class Logprob:
    logprob: float
    rank: int = 1


@dataclass(slots=True)
class CompletionOutput:
    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    prompt_logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None


def logprob_of(token: int) -> float:
    """The double's log-probability of a sampled token; a binary fraction, so that sums are exact."""
    return -token / 64


def write_number(prompt: Sequence[int], rng: random.Random | None) -> list[int]:
    """The double's model: greedily always 10 and 11; sampled, three numbers; then the end."""
    return [10, 11, EOS] if rng is None else [*(rng.randrange(10, 1000) for _ in range(3)), EOS]


def always(*tokens: int) -> Callable[[Sequence[int], random.Random | None], list[int]]:
    """A model that always writes these tokens."""
    return lambda _prompt, _rng: list(tokens)


def checkpoint(folder: Path, **config: Any) -> Path:
    """As much of a Hugging Face checkpoint as engine and double read; the text of a token 20 is `t20`."""
    (folder / "config.json").write_text(
        json.dumps({"eos_token_id": EOS, "max_position_embeddings": POSITIONS, "torch_dtype": "bfloat16", **config})
    )
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS, TURN_END]}))
    words = {0: "<unk>", 1: "<s>", EOS: "</s>", TURN_END: "<|turn_end|>"}
    vocabulary = {words.get(token, f"t{token}"): token for token in range(1000)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.add_special_tokens(["</s>", "<|turn_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    template = "{% for message in messages %}{{ message['content'] }}</s>{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    return folder


@dataclass
class World:
    """What the model does, and what the double was asked."""

    version: str = "1.2.1"
    write: Callable[[Sequence[int], random.Random | None], list[int]] = write_number
    logprob_lacks: set[int] = field(default_factory=set)
    """Tokens that are missing in the top-k log-probabilities although they were sampled."""
    override: dict[str, Any] = field(default_factory=dict)
    """Attributes forced on every CompletionOutput, for ends that no sampled text leads to."""
    failures: dict[tuple[int, ...], Exception] = field(default_factory=dict)
    """Prompts whose result raises: RequestError concerns the request, as does the assertion on lengths of
    log-probabilities; any other exception kills the engine."""
    held: dict[tuple[int, ...], threading.Event] = field(default_factory=dict)
    """Prompts that are answered only after the event."""
    seconds: float = 0
    """What an answer takes that may not end before its limit."""
    loads: threading.Event | None = None
    """The model is loaded only after the event."""
    dies_at: tuple[int, ...] | None = None
    """A prompt at which the worker dies: no request in flight or after it comes back, nor does `shutdown()`."""
    shutdown_hangs: bool = False
    caches: bool = True
    """Whether blocks of a prompt are found again."""
    constructed: list[dict[str, Any]] = field(default_factory=list)
    submitted: list[tuple[tuple[int, ...], Any]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    """That of the process when it imported the library."""
    running: int = 0
    peak: int = 0
    shutdowns: int = 0
    lock: Any = field(default_factory=threading.Lock)


class Future:
    """A RequestOutput: `result()` delivers or raises, or waits forever for a dead worker."""

    def __init__(
        self, world: World, llm: Any, prompt: tuple[int, ...], deliver: Callable[[], list[CompletionOutput]]
    ) -> None:
        self.world, self.llm, self.prompt, self.deliver = world, llm, prompt, deliver
        self.outputs: list[CompletionOutput] = []
        self.cached_tokens = 0
        self.endless = False
        with world.lock:
            world.running += 1
            world.peak = max(world.peak, world.running)

    def result(self, timeout: float | None = None) -> "Future":
        if self.endless:
            time.sleep(self.world.seconds)
        if self.prompt in self.world.held:
            self.world.held[self.prompt].wait()
        if self.llm.worker_is_dead:
            threading.Event().wait()
        with self.world.lock:
            self.world.running -= 1
        try:
            self.outputs = self.deliver()
        except (RequestError, AssertionError):
            raise
        except Exception:
            self.llm.shutdown()
            raise
        return self


def finish(world: World, cpp: bool, index: int, tokens: list[int], params: Any, limit: int) -> CompletionOutput:
    """Cut drawn tokens as the library does: end id first, then the length, then the stop ids.

    A stop id is trimmed, but not its log-probability. The end id is trimmed with it, by the C++ sampler alone.
    """
    output = CompletionOutput(index)
    stops = params.stop_token_ids or []
    for count, token in enumerate(tokens, start=1):
        output.token_ids.append(token)
        if token == params.end_id:
            output.finish_reason = "stop"
        elif count == limit:
            output.finish_reason = "length"
        elif token in stops:
            output.finish_reason, output.stop_reason = "stop", token
        if output.finish_reason:
            break
    if cpp and output.token_ids[-1] == params.end_id:
        output.token_ids = output.token_ids[:-1]
    if params.logprobs:
        top = [token if token not in world.logprob_lacks else -1 for token in output.token_ids]
        output.logprobs = [{token: Logprob(logprob_of(token))} for token in top]
    if output.stop_reason is not None and not params.include_stop_str_in_output:
        output.token_ids = output.token_ids[:-1]
    if params.detokenize:
        shown = [token for token in output.token_ids if token != params.end_id]
        output.text = " ".join(f"t{token}" for token in shown)
    for name, value in world.override.items():
        setattr(output, name, value)
    return output
