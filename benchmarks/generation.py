"""The torch engine against Transformers' `generate`: the same model, prompts, samples and type; sides take turns.

    .venv/bin/python -m benchmarks.generation                       # SmolLM2-135M's shape, float32, one thread
    .venv/bin/python -m benchmarks.generation --dtype bfloat16
    .venv/bin/python -m benchmarks.generation --model tiny --threads 2
    .venv/bin/python -m benchmarks.generation --sides ours generate continuous --loads candidates

Every measurement is a process of its own, so that its peak memory is its own. Weights are random, prompts random
tokens; all sample at temperature 1. `generate` gets left-padded batches of prompts sorted by length and draws the
samples of a prompt by `num_return_sequences`; of the batch sizes in `--batch` its fastest counts. `continuous` is
Transformers' continuous batching. CPU-seconds are what to compare where other work runs on the machine.
"""

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path("benchmarks/results/generation.json")
TINY = Path("examples/tinyworld/base")
SMOL = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


class Load(NamedTuple):
    """Prompts of `shortest` to `longest` tokens, the first `shared` the same; `samples` of each, of `new` tokens."""

    prompts: int
    shortest: int
    longest: int
    shared: int
    samples: int
    new: int


LOADS = {
    "candidates": Load(prompts=16, shortest=30, longest=300, shared=0, samples=4, new=128),
    "judging": Load(prompts=16, shortest=420, longest=480, shared=350, samples=8, new=64),
    "meta-judging": Load(prompts=32, shortest=700, longest=780, shared=350, samples=1, new=64),
}
"""Those of the small model; the tiny one gets a third of the tokens for eight times the prompts."""


def main() -> None:
    """Measure, print and add to the results."""
    options = arguments()
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    if options.measure:
        print(json.dumps(measured(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = model_directory(options.model, Path(folder) / "model")
        for load in options.loads:
            found = compare(options, load, model)
            keep(options, load, found)
            show(load, found)


def arguments() -> argparse.Namespace:
    """The command line; `--measure DIRECTORY` is for the processes that this one starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["small", "tiny"], default="small")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--loads", nargs="+", choices=list(LOADS), default=list(LOADS))
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=["ours", "generate"])
    parser.add_argument("--batch", nargs="+", type=int, default=[16], help="prompts in a batch of `generate`")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def model_directory(model: str, folder: Path) -> Path:
    """A model with random weights of the shape, and the tiny model's tokenizer."""
    if model == "tiny":
        return TINY
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json", "manifest.json"))
    LlamaForCausalLM(LlamaConfig(**SMOL)).save_pretrained(folder)
    return folder


def compare(options: argparse.Namespace, load: str, model: Path) -> dict[str, list[dict[str, Any]]]:
    """Measurements of each side (and batch size), round by round; sides take turns."""
    sides = [(side, batch) for side in options.sides for batch in (options.batch if side == "generate" else [0])]
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for side, batch in sides:
            words = ["--measure", str(model), "--model", options.model, "--dtype", options.dtype]
            words += ["--threads", str(options.threads), "--loads", load, "--sides", side, "--batch", str(batch)]
            command = [sys.executable, "-m", "benchmarks.generation", *words]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found.setdefault(f"{side} {batch}" if batch else side, []).append(json.loads(done.stdout.splitlines()[-1]))
    return found


def measured(options: argparse.Namespace) -> dict[str, float]:
    """One side on one load: tokens, wall and CPU seconds without loading the model, peak memory of the process."""
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    load = scaled(LOADS[options.loads[0]], options.model)
    vocabulary = json.loads((options.measure / "config.json").read_text())["vocab_size"]
    side = SIDES[options.sides[0]](options)
    side(prompts(load._replace(prompts=2), vocabulary), load._replace(prompts=2, new=4))
    started, used = time.perf_counter(), cpu_seconds()
    tokens = side(prompts(load, vocabulary), load)
    return {
        "tokens": tokens,
        "wall_s": round(time.perf_counter() - started, 2),
        "cpu_s": round(cpu_seconds() - used, 2),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
    }


def cpu_seconds() -> float:
    """Of this process so far, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def scaled(load: Load, model: str) -> Load:
    """The load for a model."""
    if model == "small":
        return load
    prompts, *lengths = load
    samples = load.samples
    shortest, longest, shared = (length // 3 for length in lengths[:3])
    return Load(prompts * 8, shortest, longest, shared, samples, load.new // 2)


def prompts(load: Load, vocabulary: int) -> list[list[int]]:
    """Random tokens, the same every time."""
    rng = random.Random(0)
    head = [rng.randrange(10, vocabulary) for _ in range(load.shared)]
    lengths = [rng.randint(load.shortest, load.longest) for _ in range(load.prompts)]
    return [head + [rng.randrange(10, vocabulary) for _ in range(length - load.shared)] for length in lengths]


Side = Callable[[Sequence[Sequence[int]], Load], int]


def ours(options: argparse.Namespace) -> Side:
    """The torch engine; returns the tokens that it drew, as the other sides do."""
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
    """Transformers' `generate` in static batches."""
    import torch

    model, settings = transformers_model(options)

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
            drawn += int((output[:, width:] != 0).sum())
        return drawn

    return run


def continuous(options: argparse.Namespace) -> Side:
    """Transformers' continuous batching; each sample is a request."""
    model, settings = transformers_model(options)

    def run(asked: Sequence[Sequence[int]], load: Load) -> int:
        requests = [list(prompt) for prompt in asked for _ in range(load.samples)]
        done = model.generate_batch(inputs=requests, generation_config=settings(load.new), progress_bar=False)
        return sum(len(output.generated_tokens) for output in done.values())

    return run


def transformers_model(options: argparse.Namespace) -> tuple[Any, Callable[..., Any]]:
    """The model, and what makes a GenerationConfig: sampling at temperature 1 to the model's own end of turn."""
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(options.measure, dtype=options.dtype).eval()
    plain = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "pad_token_id": 0, "eos_token_id": 3}
    return model, lambda new, **more: GenerationConfig(max_new_tokens=new, **plain, **more)


SIDES: dict[str, Callable[[argparse.Namespace], Side]] = {"ours": ours, "generate": generate, "continuous": continuous}


def show(load: str, found: dict[str, list[dict[str, Any]]]) -> None:
    """Tokens per CPU-second and per second, medians of the rounds, and how much of ours a side reaches."""
    speeds = {side: statistics.median(one["tokens"] / one["cpu_s"] for one in rounds) for side, rounds in found.items()}
    for side, rounds in found.items():
        wall = statistics.median(one["tokens"] / one["wall_s"] for one in rounds)
        peak = max(one["peak_gb"] for one in rounds)
        ratio = speeds.get("ours", 0) / speeds[side]
        print(
            f"{load:13} {side:14} {speeds[side]:7.0f} tokens per CPU-second {wall:7.0f} per second {peak:6.2f} GB"
            f"   ours is {ratio:.2f} times as fast",
            flush=True,
        )


def keep(options: argparse.Namespace, load: str, found: dict[str, list[dict[str, Any]]]) -> None:
    """Put the measurements into the results, in place of older ones of the same setting."""
    import torch
    import transformers

    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    name = f"{options.model}, {options.dtype}, {options.threads} threads: {load}"
    results[name] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "rounds": results.get(name, {}).get("rounds", {}) | found,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
