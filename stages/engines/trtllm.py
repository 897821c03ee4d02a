"""Generation with TensorRT-LLM (PyTorch back-end) on NVIDIA GPUs: 1.0 to 1.2, and pre-releases of 1.3.

One request per sample (`n` > 1 loses finish reasons before 1.2.1), each with its own future and its own error, so
that one refused request costs one completion and not the batch. Whatever the library would choose or change by
itself (greedy decoding, 32 tokens, a lowered token limit, stop ids, text) is set, checked or done here. The default
sampler ignores seeds; `seeds_honoured` tells which one runs. How to run it: docs/tensorrt-llm.md.

`python -m stages.engines.trtllm --self-test MODEL` checks, on a machine with GPUs, what is relied on here.
"""

import importlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from stages.config import EngineSettings, Sampling
from stages.contracts.errors import StageError
from stages.engines.protocol import Completion, Request, failed, refusal
from stages.engines.trtllm_answers import completion, submission_order
from stages.engines.trtllm_arguments import (
    chosen_sampler,
    honours_seeds,
    llm_arguments,
    sampling_arguments,
    start_environment,
    supported_release,
)
from stages.engines.trtllm_checkpoint import check_positions, read_text_config, weights_type
from stages.engines.trtllm_watch import Arrivals, leave, leaves_after, returns_within
from stages.prompting.chat import ChatTokenizer

BATCHES_IN_FLIGHT = 2
"""Requests sent and not yet answered, in units of `max_batch_size`: one batch that runs, and one that takes the places
of those that finish. No more, so that neither memory nor threads grow with the number of requests."""
SHUTDOWN_SECONDS = 120.0
"""What an engine that works may take to stop."""


class TrtllmEngine:
    """An `Engine` around one `tensorrt_llm.LLM`. One model per process: freeing a model is not reliable in 1.x.

    An engine that died ends the process when its context is left: neither `shutdown()` nor the interpreter's own end
    would come back. What it yielded before is with the caller by then.
    """

    exact_tokens = True

    def __init__(self, model: Path, settings: EngineSettings) -> None:
        self.model = model
        self.settings = settings
        self.seeds_honoured = False
        self.library: Any = None
        """The module `tensorrt_llm`."""
        self.llm: Any = None
        """Its `LLM`."""
        self._dead = False

    def __enter__(self) -> "TrtllmEngine":
        """Load the model. Raises StageError if library, GPUs, positions or stop tokens are missing, before it loads."""
        self.chat = ChatTokenizer(self.model)
        self.stop_ids = sorted(self.chat.stop_ids)
        config = read_text_config(self.model)
        check_positions(self.model, config, self.settings.max_sequence_length)
        own = self.settings.trtllm
        self.library = import_library(own.tensor_parallel_size * own.pipeline_parallel_size)
        release = supported_release(self.library.__version__)
        self.sampler = chosen_sampler(release, own.sampler)
        self.seeds_honoured = honours_seeds(self.sampler)
        dtype = weights_type(config, release, self.settings.dtype)
        arguments = llm_arguments(self.library, str(self.model), self.settings, release, dtype)
        slow = (
            f"{self.model}: not loaded after {own.load_seconds:g} seconds (engine.trtllm.load_seconds): the workers of "
            "TensorRT-LLM do not start, or the disk is slow; see its log above"
        )
        try:
            with leaves_after(own.load_seconds, slow):
                self.llm = self.library.LLM(**arguments).__enter__()
            self._end_id = self.llm.tokenizer.eos_token_id
        except Exception as error:
            raise StageError(
                f"{self.model}: TensorRT-LLM {self.library.__version__} cannot load it: {error}"
            ) from error
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self._dead or not returns_within(SHUTDOWN_SECONDS, self.llm.shutdown):
            hung = f"{self.model}: TensorRT-LLM does not shut down; run the stage again: what was answered is kept"
            leave(error or StageError(hung))

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion per request as they finish, about in the order of `submission_order`.

        Raises StageError when the engine dies or no answer comes for `engine.stall_seconds`; an error of one request
        becomes its completion.
        """
        batch = self.settings.trtllm.max_batch_size
        arrivals = Arrivals(self.settings.stall_seconds)
        for request in submission_order(requests, batch):
            if arrivals.awaited >= BATCHES_IN_FLIGHT * batch:
                yield self._next(arrivals, sampling)
            problem = refusal(request, sampling, self.settings.max_sequence_length) or self._submit(
                request, sampling, arrivals
            )
            if problem:
                yield failed(request, problem)
        while arrivals.awaited:
            yield self._next(arrivals, sampling)

    def _submit(self, request: Request, sampling: Sampling, arrivals: Arrivals) -> str | None:
        """Send a request; the library's words if it refuses this one."""
        # A fresh object each time: the library writes the end id and stop ids into the one that it is given.
        parameters = self.library.SamplingParams(**sampling_arguments(request, sampling, self.stop_ids, self.sampler))
        try:
            future = self.llm.generate_async({"prompt_token_ids": list(request.prompt_token_ids)}, parameters)
        except (self.library.llmapi.RequestError, ValueError) as error:
            return str(error)
        except Exception as error:
            raise self._died(arrivals.cause(error)) from error
        arrivals.expect(request, future)
        return None

    def _next(self, arrivals: Arrivals, sampling: Sampling) -> Completion:
        try:
            request, result = arrivals.next()
        except StageError:
            self._dead = True
            raise
        # Log-probabilities of another number than tokens fail an assertion where the result is read (#9374).
        if isinstance(result, self.library.llmapi.RequestError | AssertionError):
            return failed(request, f"{result}" or type(result).__name__)
        if isinstance(result, BaseException):
            raise self._died(result) from result
        given = completion(request, result.outputs[0], sampling.max_tokens, self._end_id, self.stop_ids, self.chat)
        cached = getattr(result, "cached_tokens", None)  # 1.0 does not tell
        return given if cached is None else replace(given, cached=cached / len(request.prompt_token_ids))

    def _died(self, error: BaseException) -> StageError:
        self._dead = True
        return StageError(
            f"{self.model}: TensorRT-LLM stopped working ({type(error).__name__}: {error}); see its log above, "
            "then run the stage again"
        )


def import_library(gpus: int) -> Any:
    """The `tensorrt_llm` module, imported in the environment that so many GPUs need (see `start_environment`).

    Raises StageError with the remedy where it cannot be imported.
    """
    environment = start_environment(os.environ, gpus)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
    try:
        library = importlib.import_module("tensorrt_llm")
        importlib.import_module("tensorrt_llm.llmapi")
    except ImportError as error:
        raise StageError(
            f"engine.backend is 'trtllm', but tensorrt_llm cannot be imported ({error}): run in an environment of its "
            "own, as docs/tensorrt-llm.md says, or set engine.backend to 'torch'"
        ) from error
    return library


if __name__ == "__main__":
    # By name: the self-test imports this module, and modules import each other in one direction only.
    importlib.import_module("stages.engines.trtllm_self_test").main()
