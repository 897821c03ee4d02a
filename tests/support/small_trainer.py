"""A trainer at its first step on a small model, the batches it takes, and whether a checkpoint brings it back."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from stages.config import MegatronSettings, OptimizerSettings
from stages.megatron import loop, weights
from stages.megatron.checkpoint import Checkpoints
from stages.megatron.loop import Trainer
from stages.megatron.model import build_model
from stages.megatron.parallel import Rank
from stages.model_files.config import read_config
from stages.training.batches import Example, Row
from stages.training.objectives import preference

STEPS = 10


def pairs() -> list[Example]:
    """Seven pairs of uneven lengths: not divisible by two ranks."""
    rng = np.random.default_rng(0)
    examples = []
    for i in range(7):
        prompt = rng.integers(5, 300, rng.integers(3, 12))
        rows = tuple(_row(prompt, rng.integers(5, 300, rng.integers(2, 20))) for _ in range(2))
        examples.append(Example(f"pair-{i}", rows, tuple(rng.uniform(-40, -20, 2))))
    return examples


def answers() -> list[Example]:
    """As many single rows."""
    return [Example(pair.key, pair.rows[:1]) for pair in pairs()]


def _row(prompt: np.ndarray, answer: np.ndarray) -> Row:
    return Row(np.r_[prompt, answer], np.r_[np.zeros(len(prompt)), np.ones(len(answer))].astype(np.float32))


def new_trainer(model_dir: Path, rank: Rank, **values: Any) -> Trainer:
    """A trainer at its first step; `values` are `megatron` settings.

    Adam divides a gradient by its own size, and so makes whole steps of one that is nothing but rounding noise (1e-9,
    and other noise on other ranks): epsilon is well above that noise here.
    """
    facts, settings = read_config(model_dir), MegatronSettings(**{"micro_batch_tokens": 64, **values})
    chunks = build_model(facts, settings, rank.device)
    weights.load(chunks, model_dir, facts)
    optimizer = OptimizerSettings(learning_rate=1e-3, warmup_steps=1, weight_decay=0.1)
    with patch.object(loop, "OptimizerConfig", partial(loop.OptimizerConfig, adam_eps=1e-5)):
        return Trainer(chunks, settings, optimizer, STEPS, rank)


def take_steps(trainer: Trainer, count: int) -> list[dict[str, float]]:
    """Metrics of the next steps."""
    return [trainer.step(pairs(), preference(0.1, 0.0)) for _ in range(count)]


def parameters(trainer: Trainer) -> list[torch.Tensor]:
    """This rank's weights."""
    return [parameter.detach().clone() for chunk in trainer.chunks for parameter in chunk.parameters()]


def resumes_exactly(new: Callable[[], Trainer], checkpoints: Checkpoints) -> bool:
    """Whether three steps, a checkpoint and two more steps give what five steps give, to the last bit, on all ranks."""
    undisturbed = new()
    take_steps(undisturbed, 3)
    checkpoints.save(3, undisturbed, {})
    noise = torch.get_rng_state()
    expected = take_steps(undisturbed, 2)
    torch.rand(1)
    resumed = new()
    assert checkpoints.resume(resumed) == (3, {})
    same = torch.equal(torch.get_rng_state(), noise) and take_steps(resumed, 2) == expected
    pairs = zip(parameters(undisturbed), parameters(resumed), strict=True)
    same = same and all(torch.equal(one, other) for one, other in pairs)
    everywhere = torch.tensor(float(same))
    torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN)
    return bool(everywhere)
