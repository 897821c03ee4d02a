"""Generation with TensorRT-LLM 1.0 to 1.2 (PyTorch back-end) on NVIDIA GPUs.

One request per sample (`n` > 1 loses finish reasons before 1.2.1), each with its own future and its own error, so
that one refused request costs one completion and not the batch. Whatever the library would choose or change by
itself (greedy decoding, 32 tokens, a lowered token limit, stop ids) is set or checked here. The default sampler
ignores seeds; `seeds_honoured` tells which one runs.
"""

import re
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from stages.config import EngineSettings, Sampling
from stages.contracts.errors import StageError
from stages.engines.protocol import Completion, Request
from stages.prompting.chat import ChatTokenizer

SUPPORTED = ((1, 0), (1, 1), (1, 2))
BATCHES_IN_FLIGHT = 4
"""Requests handed over but not yet collected, in units of `max_batch_size`: enough to keep the engine busy while the
oldest request runs long, and few enough that memory does not grow with the number of requests."""


class TrtllmEngine:
    """An `Engine` around one `tensorrt_llm.LLM`. One model per process: freeing a model is not reliable in 1.x."""

    def __init__(self, model: Path, settings: EngineSettings) -> None:
        self.model = model
        self.settings = settings
        self.seeds_honoured = False
        self._library: Any = None
        self._llm: Any = None
        self._stop_ids: list[int] = []

    def __enter__(self) -> "TrtllmEngine":
        """Load the model. Raises StageError if the library, the checkpoint's stop tokens or the GPUs are missing."""
        self._stop_ids = stop_token_ids(self.model)
        self._library = import_library()
        release = self._library.__version__
        version = supported_version(release)
        try:
            self._llm = self._library.LLM(**self._arguments(version)).__enter__()
        except Exception as error:
            raise StageError(f"{self.model}: TensorRT-LLM {release} cannot load it: {error}") from error
        self.seeds_honoured = chosen_sampler(version, self.settings.trtllm.sampler) == "TRTLLMSampler"
        return self

    def __exit__(self, *_: object) -> None:
        self._llm.shutdown()

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion per request, about in the order of `submission_order`.

        Raises StageError when the engine itself dies; an error of one request becomes its completion.
        """
        batch = self.settings.trtllm.max_batch_size
        waiting: deque[tuple[Request, Any]] = deque()
        for request in submission_order(requests, window=batch):
            answer = self._submit(request, sampling)
            if isinstance(answer, Completion):
                yield answer
                continue
            waiting.append((request, answer))
            if len(waiting) >= BATCHES_IN_FLIGHT * batch:
                yield self._receive(*waiting.popleft(), sampling)
        while waiting:
            yield self._receive(*waiting.popleft(), sampling)

    def _arguments(self, version: tuple[int, int]) -> dict[str, Any]:
        """Keyword arguments of `LLM`; only such as the installed version knows, since it refuses any other."""
        settings = self.settings.trtllm
        return {
            "model": str(self.model),
            "dtype": self.settings.dtype,
            "tensor_parallel_size": settings.tensor_parallel_size,
            "pipeline_parallel_size": settings.pipeline_parallel_size,
            "max_seq_len": self.settings.max_sequence_length,
            "max_num_tokens": settings.max_num_tokens,
            "max_batch_size": settings.max_batch_size,
            # Without it a prompt longer than max_num_tokens is refused.
            "enable_chunked_prefill": True,
            "kv_cache_config": self._library.llmapi.KvCacheConfig(
                enable_block_reuse=settings.block_reuse, free_gpu_memory_fraction=settings.kv_cache_fraction
            ),
            **sampler_arguments(version, settings.sampler),
        }

    def _submit(self, request: Request, sampling: Sampling) -> Any:
        """The request's future, or the Completion that says why there is none."""
        problem = refusal(request, sampling, self.settings.max_sequence_length)
        if problem:
            return failed(request, problem)
        # A fresh object each time: the library writes the end id and stop ids into the one that it is given.
        parameters = self._library.SamplingParams(**sampling_arguments(request, sampling, self._stop_ids))
        try:
            return self._llm.generate_async({"prompt_token_ids": list(request.prompt_token_ids)}, parameters)
        except (self._library.llmapi.RequestError, ValueError) as error:
            return failed(request, str(error))
        except Exception as error:
            raise self._fatal(error) from error

    def _receive(self, request: Request, future: Any, sampling: Sampling) -> Completion:
        try:
            output = future.result().outputs[0]
        except self._library.llmapi.RequestError as error:
            return failed(request, str(error))
        except Exception as error:
            raise self._fatal(error) from error
        return completion(request, output, sampling.max_tokens, self._llm.tokenizer.eos_token_id, self._stop_ids)

    def _fatal(self, error: Exception) -> StageError:
        return StageError(
            f"{self.model}: TensorRT-LLM stopped working ({type(error).__name__}: {error}); see its log above, "
            "then run the stage again"
        )


def import_library() -> Any:
    """The `tensorrt_llm` module; StageError with the remedy where it cannot be imported."""
    try:
        import tensorrt_llm
        import tensorrt_llm.llmapi
    except ImportError as error:
        raise StageError(
            f"engine.backend is 'trtllm', but tensorrt_llm cannot be imported ({error}): install the 'trtllm' extra or "
            "use NVIDIA's TensorRT-LLM container, or set engine.backend to 'torch'"
        ) from error
    return tensorrt_llm


def supported_version(version: str) -> tuple[int, int]:
    """Major and minor number; StageError for a release whose arguments and traps are not known here."""
    match = re.match(r"(\d+)\.(\d+)", version)
    numbers = (int(match[1]), int(match[2])) if match else (0, 0)
    if numbers not in SUPPORTED:
        raise StageError(f"tensorrt_llm {version} is installed; the trtllm engine supports 1.0 to 1.2")
    return numbers


def chosen_sampler(version: tuple[int, int], sampler: str) -> str:
    """The sampler that runs: `auto` means TorchSampler from 1.1 on, while 1.0 samples reliably only in C++."""
    if sampler == "auto":
        return "TRTLLMSampler" if version == (1, 0) else "TorchSampler"
    return sampler


def sampler_arguments(version: tuple[int, int], sampler: str) -> dict[str, Any]:
    """How `LLM` is told about the sampler. With neither switch of 1.0 every answer would be greedy."""
    if version >= (1, 1):
        return {"sampler_type": sampler}
    name = "enable_trtllm_sampler" if chosen_sampler(version, sampler) == "TRTLLMSampler" else "enable_mixed_sampler"
    return {name: True}


def sampling_arguments(request: Request, sampling: Sampling, stop_ids: Sequence[int]) -> dict[str, Any]:
    """Keyword arguments of `SamplingParams`. Nothing that steers the draw is left to a default.

    `end_id` stays unset, since giving it switches off the library's own set-up. Log-probabilities are asked for only
    at temperature 1 without truncation: nowhere is it said whether they are taken before or after the temperature,
    and a Completion promises temperature 1.
    """
    arguments: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": request.seed,
        "stop_token_ids": list(stop_ids),
    }
    if (sampling.temperature, sampling.top_p, sampling.top_k) == (1, 1, 0):
        arguments["logprobs"] = 1
    return arguments


def stop_token_ids(model: Path) -> list[int]:
    """All ids that end a turn: of the chat template, the tokenizer and generation_config.json, as for every engine.

    The library adds the last ones by itself only from 1.2 on, the first ones never.
    """
    return sorted(ChatTokenizer(model).stop_ids)


def submission_order(requests: Sequence[Request], window: int) -> Iterator[Request]:
    """The requests in an order that lets samples of one prompt share its prefill.

    Prompts are sorted, so that neighbours share prefixes, and taken `window` at a time: first one sample of each,
    which computes the prompt's KV blocks, then the other samples, those of a prompt adjacent. A window of one batch
    lets the first samples finish (their blocks may become reusable only then) before the others get a place, and
    keeps the blocks from being evicted before they are used.
    """
    samples: dict[tuple[int, ...], list[Request]] = {}
    for request in sorted(requests, key=lambda request: request.prompt_token_ids):
        samples.setdefault(request.prompt_token_ids, []).append(request)
    prompts = list(samples.values())
    for start in range(0, len(prompts), window):
        group = prompts[start : start + window]
        yield from (first for first, *_ in group)
        for _, *others in group:
            yield from others


def refusal(request: Request, sampling: Sampling, max_sequence_length: int) -> str | None:
    """Why a request must not be submitted: the library would lower `max_tokens` without a word."""
    prompt = len(request.prompt_token_ids)
    if not prompt:
        return "the prompt is empty"
    if prompt + sampling.max_tokens > max_sequence_length:
        return (
            f"prompt ({prompt} tokens) and answer (up to {sampling.max_tokens}) exceed engine.max_sequence_length "
            f"({max_sequence_length})"
        )
    return None


def completion(request: Request, output: Any, max_tokens: int, end_id: int, stop_ids: Sequence[int]) -> Completion:
    """A `CompletionOutput` as a Completion whose tokens end with the stop token if it stopped by itself.

    The library trims a stop id from the tokens (and names it in `stop_reason`), leaves the end id to the version,
    and says `length` when a stop id comes as the last allowed token.
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
    return Completion(request.request_id, output.text, tokens, reason, total_logprob(tokens, output.logprobs))


def total_logprob(tokens: Sequence[int], logprobs: Any) -> float | None:
    """Sum over `tokens` of the log-probabilities (nats) that came with them; None unless each token has one.

    `logprobs` has one `{token: Logprob}` per token; with the top k alone the sampled token may be missing.
    """
    if not logprobs or len(logprobs) != len(tokens):
        return None
    found = [entry.get(token) for token, entry in zip(tokens, logprobs, strict=True)]
    return None if None in found else float(sum(item.logprob for item in found))


def failed(request: Request, error: str) -> Completion:
    """The completion of a request that failed alone."""
    return Completion(request.request_id, "", [], "error", error=error)
