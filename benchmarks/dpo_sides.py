"""The two sides of `benchmarks.dpo_vs_trl`, each of which trains in a process of its own and pauses after every round.

Both start from the same weights and work out the reference log-probabilities beforehand, with their own code.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from benchmarks.trl_dpo import Pair, dpo_config, dpo_trainer, example, random_pair, text_pair, with_reference
from stages.config import MegatronSettings, OptimizerSettings
from stages.megatron import weights
from stages.megatron.loop import Trainer
from stages.megatron.model import build_model
from stages.megatron.parallel import Rank, world
from stages.model_files.config import read_config
from stages.training.batches import Example
from stages.training.objectives import preference

BETA, LEARNING_RATE, SEED = 0.1, 1e-5, 7
ADAM = {"beta1": 0.9, "beta2": 0.98, "weight_decay": 0.0}
CLIP = 1.0


@dataclass(frozen=True)
class Mix:
    """Lengths that are drawn evenly from ranges (both ends included), in tokens, and optimizer steps in a round."""

    prompt: tuple[int, int]
    answer: tuple[int, int]
    steps: int


@dataclass(frozen=True)
class Load:
    """A model and the pairs that it trains on, of a size that suits a device."""

    model: LlamaConfig
    mixes: dict[str, Mix]
    text: tuple[int, ...] = ()
    """Tokens of which prompts and answers are parts; random ones where there are none."""


LOADS = {
    "cpu": Load(
        LlamaConfig(
            vocab_size=32000,
            hidden_size=384,
            intermediate_size=1024,
            num_hidden_layers=8,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        ),
        {
            "chat": Mix((20, 200), (20, 300), 1),
            "judge": Mix((400, 700), (30, 120), 1),
            "short": Mix((10, 40), (5, 40), 4),
        },
    ),
    # The shape of Llama 3.2 1B.
    "cuda": Load(
        LlamaConfig(
            vocab_size=128256,
            hidden_size=2048,
            intermediate_size=8192,
            num_hidden_layers=16,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=64,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
        ),
        {
            "chat": Mix((100, 1000), (100, 1500), 4),
            "judge": Mix((2000, 3400), (150, 600), 2),
            "short": Mix((10, 100), (10, 150), 8),
        },
    ),
}


@dataclass(frozen=True)
class Job:
    """What a side trains on: the mix's steps of `batch` pairs each, again and again."""

    side: str
    folder: Path
    load: Load
    mix: str
    batch: int
    threads: int
    device: str = "cpu"
    dtype: str = "float32"
    settings: dict[str, Any] = field(default_factory=dict)
    """Of `MegatronSettings` (ours), or of TRL's `DPOConfig`."""

    @property
    def steps(self) -> int:
        """Optimizer steps of a round."""
        return self.load.mixes[self.mix].steps

    @property
    def pairs(self) -> int:
        """Pairs of a round."""
        return self.steps * self.batch

    def batches(self) -> list[list[Pair]]:
        """The pairs of each step, short ones first: micro-batches in this order have the least padding."""
        rng, mix = np.random.default_rng(SEED), self.load.mixes[self.mix]

        def pair() -> Pair:
            lengths = (rng.integers(low, high, endpoint=True) for low, high in (mix.prompt, mix.answer, mix.answer))
            if self.load.text:
                return text_pair(rng, self.load.text, *map(int, lengths))
            return random_pair(rng, self.load.model.vocab_size, *map(int, lengths))

        return [sorted((pair() for _ in range(self.batch)), key=lambda pair: pair.length) for _ in range(mix.steps)]


def real_load(model: Path) -> Load:
    """A model as it is, on pairs of the CPU's lengths made of real text: this repository's pages."""
    pages = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokens = tokenizer.encode("\n\n".join(page.read_text(encoding="utf-8") for page in pages)).ids
    return Load(LlamaConfig.from_pretrained(model), LOADS["cpu"].mixes, tuple(tokens))


def write_model(config: LlamaConfig, folder: Path) -> Path:
    """The folder, with a random model as a Hugging Face directory in it."""
    torch.manual_seed(SEED)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@dataclass
class Rounds:
    """Times rounds of training. Between two of them the process sleeps until it is told to go on."""

    line: Connection
    began: float = 0.0
    cpu_began: float = 0.0

    def wait(self) -> None:
        """Until the next round may begin; ends the process after the last."""
        if not self.line.recv():
            sys.exit()
        self.began, self.cpu_began = time.perf_counter(), time.process_time()

    def ready(self) -> None:
        """Say that all is set up, and wait for the first round."""
        self.line.send(None)
        self.wait()

    def done(self, loss: float) -> None:
        """Report a round with the mean loss of its steps."""
        seconds, cpu = time.perf_counter() - self.began, time.process_time() - self.cpu_began
        self.line.send({"seconds": seconds, "cpu_seconds": cpu, "loss": loss, "peak_mb": _peak_bytes() / 1e6})
        self.wait()


def _peak_bytes() -> int:
    """Largest memory so far: of the GPU where there is one, resident otherwise."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def train(job: Job, line: Connection) -> None:
    """Train until told to end; for `multiprocessing`. Standard output is left to the process that asks."""
    sys.stdout = sys.stderr
    if job.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(job.threads)
    {"ours": _train_ours, "trl": _train_trl}[job.side](job, Rounds(line))


def _train_ours(job: Job, rounds: Rounds) -> None:
    settings = MegatronSettings(threads=job.threads, dtype=job.dtype, **job.settings)
    with world(settings, read_config(job.folder)) as rank:
        step, batches = our_trainer(settings, rank, job)
        rounds.ready()
        while True:
            losses = [step(batch) for batch in batches]
            rounds.done(sum(losses) / len(losses))


def our_trainer(
    settings: MegatronSettings, rank: Rank, job: Job
) -> tuple[Callable[[list[Example]], float], list[list[Example]]]:
    """A function that takes one optimizer step on a batch and returns its loss, and the batches."""
    facts = read_config(job.folder)
    chunks = build_model(facts, settings, rank.device)
    weights.load(chunks, job.folder, facts)
    batches = [[example(f"{i}-{j}", pair) for j, pair in enumerate(batch)] for i, batch in enumerate(job.batches())]
    batches = [with_reference(chunks, batch, settings, rank) for batch in batches]
    optimizer = OptimizerSettings(
        learning_rate=LEARNING_RATE, min_learning_rate_ratio=1, warmup_steps=0, clip_grad=CLIP, **ADAM
    )
    trainer = Trainer(chunks, settings, optimizer, 10**6, rank)
    objective = preference(BETA, 0.0)
    return lambda batch: trainer.step(batch, objective)["loss"], batches


def _train_trl(job: Job, rounds: Rounds) -> None:
    class Pause(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
            rounds.done(logs["loss"])

    settings = {"per_device_train_batch_size": job.batch, **job.settings}
    model = LlamaForCausalLM.from_pretrained(job.folder, dtype=torch.float32, attn_implementation="sdpa")
    with tempfile.TemporaryDirectory() as folder:
        config = dpo_config(
            Path(folder),
            use_cpu=job.device == "cpu",
            bf16=job.dtype == "bfloat16",  # autocast over fp32 weights, as our bf16 has fp32 master weights
            beta=BETA,
            loss_type="sigmoid",
            precompute_ref_log_probs=True,
            gradient_accumulation_steps=job.batch // settings["per_device_train_batch_size"],
            max_steps=10**6,
            logging_steps=job.steps,  # once a round: the round ends there
            learning_rate=LEARNING_RATE,
            adam_beta1=ADAM["beta1"],
            adam_beta2=ADAM["beta2"],
            weight_decay=ADAM["weight_decay"],
            max_grad_norm=CLIP,
            **settings,
        )
        pairs = [pair for batch in job.batches() for pair in batch]
        trainer = dpo_trainer(model, pairs, config, callbacks=[Pause()])
        rounds.ready()
        trainer.train()
