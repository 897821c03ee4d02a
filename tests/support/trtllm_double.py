"""A strict double of `tensorrt_llm` (PyTorch back-end), as its sources document it.

It knows exactly the arguments that the chosen version knows and refuses any other as the library does, and it has the
library's traps: greedy by default (on 1.0.0 always, unless a sampler is switched on), 32 tokens by default, a
SamplingParams object that is written to, a token limit lowered without a word, errors that cost `generate()` its
finished results, seeds that only the C++ sampler reads, a TorchSampler that before 1.2 ignores the temperature beside
top_p, an end id that each sampler treats in its way, a worker that cannot be started within a step of srun, and one
that dies and leaves everybody waiting. `World` says what the model writes and records what was asked.
"""

import importlib.abc
import importlib.machinery
import json
import os
import random
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.trtllm_parameters import CudaGraphConfig, KvCacheConfig, llm_arguments, sampling_params
from tests.support.trtllm_world import (
    EOS,
    CompletionOutput,
    Future,
    Logprob,
    RequestError,
    World,
    finish,
    logprob_of,
    release,
)

RANK_VARIABLES = ("SLURM_", "PMIX_", "PMI_", "OMPI_COMM_")
COLD = 0.05
"""Below this temperature the double's model says what it says greedily."""


def check_start(world: World, gpus: int) -> None:
    """As the library starts its workers: by MPI_Comm_spawn, but within one process, or where a launcher did it."""
    environment = world.environment
    if environment.get("TLLM_SPAWN_PROXY_PROCESS"):
        if environment.get("tllm_mpi_size") != str(gpus):
            raise RuntimeError(f"world size {gpus} is not that of the launcher")
        return
    single = environment.get("TLLM_WORKER_USE_SINGLE_PROCESS") == "1"
    if single and gpus > 1:
        raise RuntimeError("one process cannot serve several GPUs")
    if not single and any(name.startswith(RANK_VARIABLES) for name in environment):
        raise RuntimeError("MPI_Comm_spawn fails within a step of srun")


def llm_class(world: World) -> type[Any]:
    """The version's LLM."""
    known = llm_arguments(world.version)
    params_class = sampling_params(world.version)
    number = release(world.version)

    class LLM:
        def __init__(self, model: str, **arguments: Any) -> None:
            for name in arguments:
                if name not in known:
                    raise ValueError(f"LLM got invalid argument: {name}")
            if not (Path(model) / "config.json").is_file():
                raise ValueError(f"{model} is not a checkpoint")
            check_start(world, arguments.get("tensor_parallel_size", 1) * arguments.get("pipeline_parallel_size", 1))
            if world.loads:
                world.loads.wait()
            world.constructed.append({"model": model, **arguments})
            self.model, self.arguments, self.dead, self.worker_is_dead = Path(model), arguments, False, False
            config = json.loads((self.model / "config.json").read_text())
            # A longer one is lowered with a warning in the log.
            self.max_seq_len = min(arguments.get("max_seq_len") or 2048, config["max_position_embeddings"])
            self.tokenizer = types.SimpleNamespace(eos_token_id=EOS, pad_token_id=None)
            self.generator = random.Random(42)
            self.seen: set[tuple[int, ...]] = set()

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
            if self.worker_is_dead or world.shutdown_hangs:
                threading.Event().wait()
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
            self.worker_is_dead = self.worker_is_dead or prompt == world.dies_at
            allowed = self.max_seq_len - len(prompt)
            limit = allowed if params.max_tokens is None else min(params.max_tokens, allowed)
            future = Future(world, self, prompt, self._delivery(prompt, params, limit))
            future.endless = params.ignore_eos
            if prompt in self.seen and self._reuses_blocks():
                future.cached_tokens = len(prompt)
            self.seen.add(prompt)
            return future

        def _reuses_blocks(self) -> bool:
            config = self.arguments.get("kv_cache_config") or KvCacheConfig()
            return world.caches and config.enable_block_reuse

        def _prepare(self, params: Any) -> None:
            """The set-up that writes into the caller's object."""
            if params.end_id is not None:
                if params.stop or params.bad:
                    raise RuntimeError("stop is not processed by tokenizer, please call the setup method")
                return
            params.end_id, params.pad_id = self.tokenizer.eos_token_id, self.tokenizer.eos_token_id
            path = self.model / "generation_config.json"
            if number >= release("1.2.1") and path.is_file():
                eos = json.loads(path.read_text()).get("eos_token_id", [])
                extra = [token for token in (eos if isinstance(eos, list) else [eos]) if token != params.end_id]
                params.stop_token_ids = [*(params.stop_token_ids or []), *extra]

        def _check_length(self, prompt: tuple[int, ...]) -> None:
            most = self.arguments.get("max_num_tokens") or 8192
            if not self.arguments.get("enable_chunked_prefill") and len(prompt) > most:
                kind = RequestError if number >= release("1.2.1") else ValueError
                raise kind(f"The sum of prompt length ({len(prompt)}) should not exceed max_num_tokens ({most})")

        def _delivery(self, prompt: tuple[int, ...], params: Any, limit: int) -> Callable[[], list[CompletionOutput]]:
            """What `result()` does. The tokens are drawn now: the shared generator runs on with each submission."""
            drawn = [world.write(prompt, self._generator(params, child)) for child in range(params.n)]
            cpp = self.sampler == "cpp"

            def deliver() -> list[CompletionOutput]:
                if prompt in world.failures:
                    raise world.failures[prompt]
                if not prompt or limit <= 0:
                    raise RequestError("Assertion failed: mMaxNewTokens > 0 && !mInputTokenIds.empty()")
                outputs = [finish(world, cpp, child, tokens, params, limit) for child, tokens in enumerate(drawn)]
                if number < release("1.2.1"):
                    for sibling in outputs[:-1]:
                        sibling.finish_reason = None
                if params.prompt_logprobs:
                    outputs[0].prompt_logprobs = [{token: Logprob(logprob_of(token))} for token in (*prompt[1:], EOS)]
                return outputs

            return deliver

        def _generator(self, params: Any, child: int) -> random.Random | None:
            pure_top_p = self.sampler == "torch" and number < release("1.2.0") and params.top_p is not None
            cold = params.greedy or (params.temperature is not None and params.temperature < COLD)
            if self.sampler == "greedy" or (cold and not pure_top_p):
                return None
            return random.Random((params.seed or 0) + child) if self.sampler == "cpp" else self.generator

    return LLM


class _Importer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the double as `tensorrt_llm`, and notes the environment in which that happened."""

    def __init__(self, modules: dict[str, Any], world: World) -> None:
        self.modules, self.world = modules, world

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in self.modules else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        return self.modules[spec.name]

    def exec_module(self, module: Any) -> None:
        self.world.environment = self.world.environment or dict(os.environ)


def install(monkeypatch: pytest.MonkeyPatch, world: World) -> Any:
    """Let `import tensorrt_llm` find the double; returns the module."""
    module: Any = types.ModuleType("tensorrt_llm")
    module.__path__ = []
    module.__version__ = world.version
    module.LLM = llm_class(world)
    module.SamplingParams = sampling_params(world.version)
    module.llmapi = types.ModuleType("tensorrt_llm.llmapi")
    module.llmapi.CudaGraphConfig = CudaGraphConfig
    module.llmapi.KvCacheConfig = KvCacheConfig
    module.llmapi.RequestError = RequestError
    modules = {"tensorrt_llm": module, "tensorrt_llm.llmapi": module.llmapi}
    for name in modules:  # so that they are taken out again after the test
        monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # which the engine changes
    monkeypatch.setattr(sys, "meta_path", [_Importer(modules, world), *sys.meta_path])
    return module
