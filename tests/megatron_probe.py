"""Run by tests, also under torchrun: trains three steps of DPO on a tiny model and prints what happened as JSON.

torchrun --nproc-per-node 2 tests/megatron_probe.py MODEL TENSOR_PARALLEL PIPELINE_PARALLEL OUTPUT
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from stages.config import MegatronSettings, OptimizerSettings
from stages.megatron import weights
from stages.megatron.batches import Example, Row
from stages.megatron.hf_config import read_config
from stages.megatron.loop import Trainer
from stages.megatron.model import build_model
from stages.megatron.objectives import preference
from stages.megatron.parallel import world


def examples() -> list[Example]:
    """Seven pairs of uneven lengths: not divisible by two ranks."""
    rng = np.random.default_rng(0)

    def row() -> Row:
        prompt, answer = rng.integers(3, 12), rng.integers(2, 20)
        mask = np.r_[np.zeros(prompt), np.ones(answer)].astype(np.float32)
        return Row(rng.integers(5, 300, prompt + answer), mask)

    return [Example(f"pair-{i}", (row(), row()), tuple(rng.uniform(-40, -20, 2))) for i in range(7)]


def main() -> None:
    model_dir, tensor, pipeline, output = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    hf = read_config(model_dir)
    with world(MegatronSettings(tensor_parallel=tensor, pipeline_parallel=pipeline)) as rank:
        model = build_model(hf, torch.float32, rank.device)
        weights.load([model], model_dir, hf)
        trainer = Trainer(model, OptimizerSettings(warmup_steps=1), 1e-3, 3, rank)
        steps = [trainer.step(examples(), preference(0.1, 0.0), 64) for _ in range(3)]
        output.mkdir(exist_ok=True)
        weights.save([model], output, hf, source=model_dir)
        if rank.is_main:
            (output / "steps.json").write_text(json.dumps(steps))


if __name__ == "__main__":
    main()
