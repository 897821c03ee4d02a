"""What the sides of `benchmarks.generation` are asked for, and the arithmetic that it takes at least."""

import json
import random
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

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
    """Prompts of `shortest` to `longest` tokens, the first `shared` the same; `samples` of each, of `new` tokens (or so
    many on average)."""

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


def scaled(load: Load, model: str) -> Load:
    """The load for a model."""
    if model == "small":
        return load
    shortest, longest, shared = load.shortest // 3, load.longest // 3, load.shared // 3
    return Load(load.prompts * 8, shortest, longest, shared, load.samples, load.new // 2)


def random_prompts(load: Load, vocabulary: int, seed: int = 0) -> list[list[int]]:
    """Random tokens, the same every time."""
    rng = random.Random(seed)
    head = [rng.randrange(10, vocabulary) for _ in range(load.shared)]
    lengths = [rng.randint(load.shortest, load.longest) for _ in range(load.prompts)]
    return [head + [rng.randrange(10, vocabulary) for _ in range(length - load.shared)] for length in lengths]


def model_directory(model: str, folder: Path) -> Path:
    """A model with random weights of the shape, and the tiny model's tokenizer."""
    if model == "tiny":
        return TINY
    from transformers import LlamaConfig, LlamaForCausalLM

    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json", "manifest.json"))
    LlamaForCausalLM(LlamaConfig(**SMOL)).save_pretrained(folder)
    return folder


def config_of(model: Path) -> dict[str, Any]:
    """The model's config.json."""
    return dict(json.loads((model / "config.json").read_text()))


def gflop(load: Load, lengths: Iterable[int], config: dict[str, Any]) -> float:
    """GFLOP that a load takes where nothing is computed twice: the shared beginning once, a prompt once for its
    samples, logits for drawn tokens alone.

        2 x weights of the layers x tokens that pass them
      + 2 x hidden size x vocabulary x tokens whose logits are needed (after each prompt, after each token but the last)
      + 4 x layers x heads x head size x sum over tokens of the tokens that they see, themselves included
    """
    hidden, layers, heads = (config[f"{name}"] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    size = config.get("head_dim") or hidden // heads
    attention = 2 * hidden * size * (heads + config["num_key_value_heads"])
    weights = layers * (attention + 3 * hidden * config["intermediate_size"])
    lengths, again = list(lengths), load.new - 1
    passed = load.shared + sum(length - load.shared + load.samples * again for length in lengths)
    logits = sum(1 + load.samples * again for _ in lengths)
    seen = _up_to(load.shared) + sum(
        _up_to(length) - _up_to(load.shared) + load.samples * (_up_to(length + again) - _up_to(length))
        for length in lengths
    )
    return 1e-9 * (2 * weights * passed + 2 * hidden * config["vocab_size"] * logits + 4 * layers * heads * size * seen)


def _up_to(length: float) -> float:
    """What the first tokens of a sequence see, summed."""
    return length * (length + 1) // 2
