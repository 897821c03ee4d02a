"""A strict double of `tensorrt_llm` (1.0.0, 1.1.0, 1.2.0, 1.2.1; PyTorch back-end), as its sources document it.

It knows exactly the arguments that the chosen version knows and refuses any other as the library does, and it has the
library's traps: greedy by default (on 1.0.0 always, unless a sampler is switched on), 32 tokens by default, a
SamplingParams object that is written to, a token limit lowered without a word, errors that cost `generate()` its
finished results, seeds that only the C++ sampler reads. `World` says what the model writes and records what was asked.
"""

import json
import random
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE

from tests.support.trtllm_parameters import KvCacheConfig, llm_arguments, sampling_params

VERSIONS = ["1.0.0", "1.1.0", "1.2.0", "1.2.1"]
"""What the double can be."""
EOS = 2
"""The tokenizer's end-of-sequence id."""
TURN_END = 9
"""A second end id, which only generation_config.json names (as <|eot_id|> in Llama 3)."""


class RequestError(RuntimeError):
    """The library's error of a single request."""


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


def checkpoint(folder: Path) -> Path:
    """As much of a Hugging Face checkpoint as the double reads."""
    (folder / "config.json").write_text(json.dumps({"eos_token_id": EOS}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [EOS, TURN_END]}))
    tokenizer = Tokenizer(BPE({"<unk>": 0, "<s>": 1, "</s>": EOS}, [], unk_token="<unk>"))
    tokenizer.add_special_tokens(["</s>"])
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
    eos_in_output: bool = True
    """Whether token_ids keep the end id: the sources do not settle it."""
    logprob_lacks: set[int] = field(default_factory=set)
    """Tokens that are missing in the top-k log-probabilities although they were sampled."""
    override: dict[str, Any] = field(default_factory=dict)
    """Attributes forced on every CompletionOutput, for ends that no sampled text leads to."""
    failures: dict[tuple[int, ...], Exception] = field(default_factory=dict)
    """Prompts whose result raises: RequestError concerns the request, any other exception kills the engine."""
    constructed: list[dict[str, Any]] = field(default_factory=list)
    submitted: list[tuple[tuple[int, ...], Any]] = field(default_factory=list)
    running: int = 0
    peak: int = 0
    shutdowns: int = 0


class Future:
    """A RequestOutput: `result()` delivers or raises."""

    def __init__(self, world: World, llm: Any, deliver: Callable[[], list[CompletionOutput]]) -> None:
        self.world, self.llm, self.deliver = world, llm, deliver
        self.outputs: list[CompletionOutput] = []
        world.running += 1
        world.peak = max(world.peak, world.running)

    def result(self, timeout: float | None = None) -> "Future":
        self.world.running -= 1
        try:
            self.outputs = self.deliver()
        except RequestError:
            raise
        except Exception:
            self.llm.shutdown()
            raise
        return self


def llm_class(world: World) -> type[Any]:
    """The version's LLM."""
    known = llm_arguments(world.version)
    params_class = sampling_params(world.version)

    class LLM:
        def __init__(self, model: str, **arguments: Any) -> None:
            for name in arguments:
                if name not in known:
                    raise ValueError(f"LLM got invalid argument: {name}")
            if not (Path(model) / "config.json").is_file():
                raise ValueError(f"{model} is not a checkpoint")
            world.constructed.append({"model": model, **arguments})
            self.model, self.arguments, self.dead = Path(model), arguments, False
            self.max_seq_len = arguments.get("max_seq_len") or 2048
            self.tokenizer = types.SimpleNamespace(eos_token_id=EOS, pad_token_id=None)
            self.generator = random.Random(42)

        @property
        def sampler(self) -> str:
            """`greedy` (1.0.0 without a switch), `torch` or `cpp`."""
            if world.version == "1.0.0":
                mixed = "torch" if self.arguments.get("enable_mixed_sampler") else "greedy"
                return "cpp" if self.arguments.get("enable_trtllm_sampler") else mixed
            return "cpp" if self.arguments.get("sampler_type", "auto") == "TRTLLMSampler" else "torch"

        def __enter__(self) -> "LLM":
            return self

        def __exit__(self, *_: object) -> bool:
            self.shutdown()
            return False

        def shutdown(self) -> None:
            self.dead = True
            world.shutdowns += 1

        def generate(self, inputs: list[Any], sampling_params: Any = None) -> list[Future]:
            futures = [self.generate_async(one, sampling_params) for one in inputs]
            return [future.result() for future in futures]

        def generate_async(self, inputs: Any, sampling_params: Any = None, streaming: bool = False) -> Future:
            if self.dead:
                raise RuntimeError("LLM is shutting down")
            params = params_class() if sampling_params is None else sampling_params
            prompt = tuple(inputs["prompt_token_ids"] if isinstance(inputs, dict) else inputs)
            if not all(type(token) is int for token in prompt):
                raise TypeError("The inputs must be token ids: this double has no tokenizer")
            self._prepare(params)
            self._check_length(prompt)
            world.submitted.append((prompt, params))
            allowed = self.max_seq_len - len(prompt)
            limit = allowed if params.max_tokens is None else min(params.max_tokens, allowed)
            return Future(world, self, self._delivery(prompt, params, limit))

        def _prepare(self, params: Any) -> None:
            """The set-up that writes into the caller's object."""
            if params.end_id is not None:
                if params.stop or params.bad:
                    raise RuntimeError("stop is not processed by tokenizer, please call the setup method")
                return
            params.end_id, params.pad_id = self.tokenizer.eos_token_id, self.tokenizer.eos_token_id
            path = self.model / "generation_config.json"
            if world.version >= "1.2.1" and path.is_file():
                eos = json.loads(path.read_text()).get("eos_token_id", [])
                extra = [token for token in (eos if isinstance(eos, list) else [eos]) if token != params.end_id]
                params.stop_token_ids = [*(params.stop_token_ids or []), *extra]

        def _check_length(self, prompt: tuple[int, ...]) -> None:
            most = self.arguments.get("max_num_tokens") or 8192
            if not self.arguments.get("enable_chunked_prefill") and len(prompt) > most:
                kind = RequestError if world.version >= "1.2.1" else ValueError
                raise kind(f"The sum of prompt length ({len(prompt)}) should not exceed max_num_tokens ({most})")

        def _delivery(self, prompt: tuple[int, ...], params: Any, limit: int) -> Callable[[], list[CompletionOutput]]:
            """What `result()` does. The tokens are drawn now: the shared generator runs on with each submission."""
            drawn = [world.write(prompt, self._generator(params, child)) for child in range(params.n)]

            def deliver() -> list[CompletionOutput]:
                if prompt in world.failures:
                    raise world.failures[prompt]
                if not prompt or limit <= 0:
                    raise RequestError("Assertion failed: mMaxNewTokens > 0 && !mInputTokenIds.empty()")
                outputs = [finish(world, child, tokens, params, limit) for child, tokens in enumerate(drawn)]
                if world.version < "1.2.1":
                    for sibling in outputs[:-1]:
                        sibling.finish_reason = None
                return outputs

            return deliver

        def _generator(self, params: Any, child: int) -> random.Random | None:
            if params.greedy or self.sampler == "greedy":
                return None
            return random.Random((params.seed or 0) + child) if self.sampler == "cpp" else self.generator

    return LLM


def finish(world: World, index: int, tokens: list[int], params: Any, limit: int) -> CompletionOutput:
    """Cut drawn tokens as the library does: end id first, then the length, then the stop ids."""
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
    shown = [token for token in output.token_ids if token not in (params.end_id, *stops)]
    output.text = " ".join(f"t{token}" for token in shown)
    if params.logprobs:
        top = [token if token not in world.logprob_lacks else -1 for token in output.token_ids]
        output.logprobs = [{token: Logprob(logprob_of(token))} for token in top]
    trimmed = output.stop_reason is not None and not params.include_stop_str_in_output
    if trimmed or (output.token_ids[-1] == params.end_id and not world.eos_in_output):
        output.token_ids = output.token_ids[:-1]
    for name, value in world.override.items():
        setattr(output, name, value)
    return output


def install(monkeypatch: pytest.MonkeyPatch, world: World) -> Any:
    """Put the double in the place of `tensorrt_llm`; returns the module."""
    module: Any = types.ModuleType("tensorrt_llm")
    module.__version__ = world.version
    module.LLM = llm_class(world)
    module.SamplingParams = sampling_params(world.version)
    module.llmapi = types.ModuleType("tensorrt_llm.llmapi")
    module.llmapi.KvCacheConfig = KvCacheConfig
    module.llmapi.RequestError = RequestError
    monkeypatch.setitem(sys.modules, "tensorrt_llm", module)
    monkeypatch.setitem(sys.modules, "tensorrt_llm.llmapi", module.llmapi)
    return module
