"""The sides of `benchmarks.generation`: each opens a model and returns what draws the samples of a load.

All sample at temperature 1. A side runs in a process of its own, and those of other libraries in an environment of
their own: nothing heavy is imported outside of a side.
"""

import argparse
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.generation_loads import Load

Side = Callable[[Sequence[Sequence[int]], Load], int]
"""Given prompts and their load, returns the number of tokens drawn."""
CACHE_GB = 4


def ours(options: argparse.Namespace) -> Side:
    """The torch engine."""
    from stages.config import EngineSettings, Sampling
    from stages.engines import open_engine
    from stages.engines.protocol import Request

    longest = 512 if options.model == "tiny" else 4096
    settings = EngineSettings(dtype=options.dtype, device="cpu", threads=options.threads, max_sequence_length=longest)
    engine = open_engine(options.measure, settings).__enter__()

    def run(asked: Sequence[Sequence[int]], load: Load) -> int:
        requests = [
            Request(f"{i}-{s}", tuple(p), seed=i * 999 + s) for i, p in enumerate(asked) for s in range(load.samples)
        ]
        return sum(len(done.token_ids) for done in engine.generate(requests, Sampling(max_tokens=load.new)))

    return run


def generate(options: argparse.Namespace) -> Side:
    """Transformers' `generate`: left-padded batches of prompts sorted by length, `num_return_sequences` samples."""
    import torch

    model, settings = _transformers_model(options)

    def run(asked: Sequence[Sequence[int]], load: Load) -> int:
        drawn, ordered = 0, sorted(asked, key=len)
        for start in range(0, len(ordered), options.batch[0]):
            group = ordered[start : start + options.batch[0]]
            width = max(map(len, group))
            tokens = torch.tensor([[0] * (width - len(ids)) + list(ids) for ids in group])
            output = model.generate(
                tokens,
                attention_mask=(tokens != 0).long(),
                generation_config=settings(load.new, num_return_sequences=load.samples),
            )
            drawn += int((output[:, width:] != 0).sum()) if options.model == "tiny" else output[:, width:].numel()
        return drawn

    return run


def continuous(options: argparse.Namespace) -> Side:
    """Transformers' continuous batching; each sample is a request."""
    model, settings = _transformers_model(options)

    def run(asked: Sequence[Sequence[int]], load: Load) -> int:
        requests = [list(prompt) for prompt in asked for _ in range(load.samples)]
        done = model.generate_batch(inputs=requests, generation_config=settings(load.new), progress_bar=False)
        return sum(len(output.generated_tokens) for output in done.values())

    return run


def openvino(options: argparse.Namespace) -> Side:
    """OpenVINO GenAI's continuous batching; each sample is a request with a seed.

    Requests that come at once share no prefill there: the first prompt goes ahead for what all begin with, then each
    other one for its samples. Keys and values have the type that is computed in. The directory is the model's export.
    """
    import numpy as np
    import openvino_genai as genai
    from openvino import Tensor

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size, scheduler.enable_prefix_caching = CACHE_GB, True
    short = {"float32": "f32", "bfloat16": "bf16"}[options.dtype]
    pipeline = genai.ContinuousBatchingPipeline(
        str(options.measure),
        scheduler,
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": short,
            "KV_CACHE_PRECISION": short,
            "INFERENCE_NUM_THREADS": options.threads,
            "ENABLE_CPU_PINNING": False,
        },
    )

    def draw(asked: Sequence[Sequence[int]], new: int) -> int:
        settings = []
        for seed in range(len(asked)):
            one = genai.GenerationConfig()
            one.max_new_tokens, one.do_sample, one.ignore_eos, one.rng_seed = new, True, True, seed
            one.temperature, one.top_p, one.top_k = 1.0, 1.0, 0
            settings.append(one)
        done = pipeline.generate([Tensor(np.array([ids], dtype=np.int64)) for ids in asked], settings)
        return sum(len(ids) for result in done for ids in result.m_generation_ids)

    def run(asked: Sequence[Sequence[int]], load: Load) -> int:
        if load.shared:
            draw(asked[:1], 1)
        if load.samples > 1:
            draw(asked, 1)
        return draw([ids for ids in asked for _ in range(load.samples)], load.new)

    return run


def vllm(options: argparse.Namespace) -> Side:
    """vLLM on the CPU, compiled; each sample is a request with a seed."""
    os.environ |= {
        "VLLM_CPU_OMP_THREADS_BIND": "0" if options.threads == 1 else f"0-{options.threads - 1}",
        "VLLM_CPU_KVCACHE_SPACE": str(CACHE_GB),
        "VLLM_NO_USAGE_STATS": "1",
    }
    from vllm import LLM, SamplingParams

    engine = LLM(
        str(options.measure),
        dtype=options.dtype,
        max_model_len=512 if options.model == "tiny" else 4096,
        max_num_batched_tokens=8192,
        enable_chunked_prefill=False,
    )

    def run(asked: Sequence[Sequence[int]], load: Load) -> int:
        several = [list(ids) for ids in asked for _ in range(load.samples)]
        settings = [
            SamplingParams(temperature=1.0, max_tokens=load.new, seed=seed, ignore_eos=True, detokenize=False)
            for seed in range(len(several))
        ]
        done = engine.generate([{"prompt_token_ids": ids} for ids in several], settings, use_tqdm=False)
        return sum(len(one.outputs[0].token_ids) for one in done)

    return run


def limit(options: argparse.Namespace) -> float:
    """GFLOP per CPU-second of torch's product of square matrices, the best of some."""
    import torch

    torch.set_num_threads(options.threads)
    size, best = 2048, 0.0
    left, right = (torch.randn(size, size).to(getattr(torch, options.dtype)) for _ in range(2))
    for _ in range(20):
        started = time.process_time()
        left @ right
        best = max(best, 2e-9 * size**3 / (time.process_time() - started))
    return best


def _transformers_model(options: argparse.Namespace) -> tuple[Any, Callable[..., Any]]:
    """The model, and what makes a GenerationConfig: sampling at temperature 1.

    The tiny model ends its turns; where one with random weights draws the token of an end, it goes on.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(options.measure, dtype=options.dtype).eval()
    end = 3 if options.model == "tiny" else -1
    plain = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": 0, "eos_token_id": end}
    return model, lambda new, **more: GenerationConfig(max_new_tokens=new, **plain, **more)


SIDES = {"ours": ours, "generate": generate, "continuous": continuous, "openvino": openvino, "vllm": vllm}


def used() -> tuple[float, float]:
    """CPU-seconds and peak memory in GB of this process's group so far: vLLM works in processes of its own."""
    ticks, peak = 0, 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            # From the third field on: the second one, the name, may hold anything.
            words = (folder / "stat").read_text().rpartition(")")[2].split()
            status = (folder / "status").read_text()
        except OSError:
            continue
        if int(words[2]) == os.getpgrp() and "VmHWM:" in status:
            ticks += int(words[11]) + int(words[12])
            peak += int(status.partition("VmHWM:")[2].split()[0])
    return ticks / os.sysconf("SC_CLK_TCK"), peak / 1e6
