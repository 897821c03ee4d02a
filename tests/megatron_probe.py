"""Run by tests, also under torchrun: trains three steps of a tiny model in several layouts, one after the other.

    torchrun --nproc-per-node 2 tests/megatron_probe.py MODEL OUTPUT '{"tp2": {"tensor_parallel": 2}, ...}'

A case's values are `megatron` settings, and optionally `objective` (dpo, sft). Writes a model directory per case, with
the steps' metrics beside it (`steps.json`).
"""

import json
import os
import sys
from pathlib import Path

import numpy as np

from stages.config import MegatronSettings, OptimizerSettings
from stages.megatron import weights
from stages.megatron.batches import Example, Row
from stages.megatron.hf_config import read_config
from stages.megatron.loop import Trainer
from stages.megatron.model import build_model
from stages.megatron.objectives import preference, sft
from stages.megatron.parallel import world

STEPS = 3


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


def run(model: Path, output: Path, objective: str = "dpo", **values: object) -> None:
    hf = read_config(model)
    settings = MegatronSettings(**{"micro_batch_tokens": 64, **values})
    batch, target = (pairs(), preference(0.1, 0.0)) if objective == "dpo" else (answers(), sft())
    with world(settings, hf) as rank:
        chunks = build_model(hf, settings, rank.device)
        weights.load(chunks, model, hf)
        trainer = Trainer(chunks, settings, OptimizerSettings(warmup_steps=1), 1e-3, STEPS, rank)
        steps = [trainer.step(batch, target) for _ in range(STEPS)]
        weights.save(chunks, output, hf, source=model)
        if rank.is_main:
            (output / "steps.json").write_text(json.dumps(steps))


if __name__ == "__main__":
    # Each case meets at a port of its own, as a world that ended leaves its keys at torchrun's; below those ports that
    # the system gives to connections.
    port = 12_000 + int(os.environ.get("MASTER_PORT", 0)) % 16_000
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    for case, settings in json.loads(sys.argv[3]).items():
        port = port + 1
        os.environ["MASTER_PORT"] = str(port)
        (Path(sys.argv[2]) / case).mkdir(parents=True, exist_ok=True)
        run(Path(sys.argv[1]), Path(sys.argv[2]) / case, **settings)
