"""The plan's estimate of activations beside what autograd keeps of a step."""

from typing import Any

import numpy as np
import pytest
import torch

from stages.config import MegatronSettings, OptimizerSettings
from stages.forecast.memory import layer_bytes
from stages.megatron.loop import Trainer
from stages.megatron.model import build_model
from stages.megatron.parallel import world
from stages.model_files.families import architecture
from stages.training.batches import Example, Row
from stages.training.objectives import preference
from tests.support.known_models import SMOLLM2

pytestmark = pytest.mark.slow
PROMPT, ANSWER = 56, 100
PACK = PROMPT - 1 + 2 * ANSWER - 1
"""Tokens that a pair is computed on: the prompt once, and no last tokens."""


def kept_bytes(layers: int, settings: MegatronSettings, **changes: Any) -> int:
    """Bytes of all tensors that a step of a model with so many layers keeps for its way back, weights left out."""
    facts = architecture(SMOLLM2 | {"vocab_size": 1000, "num_hidden_layers": layers, **changes})
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no other one gets its place
        return tensor

    with world(settings, facts) as rank:
        trainer = Trainer(
            build_model(facts, settings, rank.device), settings, OptimizerSettings(warmup_steps=1), 4, rank
        )
        weights = list(trainer.chunks[0].parameters())
        for weight in weights:
            torch.nn.init.normal_(weight, std=0.02)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            trainer.step([pair()], preference(0.1, 0.0))
    for weight in weights:
        kept.pop(weight.untyped_storage().data_ptr(), None)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def pair() -> Example:
    tokens = np.arange(PROMPT + ANSWER) % 300 + 5
    weights = np.r_[np.zeros(PROMPT), np.ones(ANSWER)].astype(np.float32)
    return Example(
        "pair", (Row(tokens, weights), Row(np.r_[tokens[:PROMPT], tokens[:ANSWER]], weights)), (-30.0, -30.0)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"architectures": ["Qwen3ForCausalLM"]}, {"architectures": ["NemotronForCausalLM"], "norm_eps": 1e-5}],
    ids=["llama", "qwen3", "nemotron"],
)
def test_a_layer_keeps_about_what_is_planned(dtype: Any, changes: dict[str, Any]) -> None:
    settings = MegatronSettings(dtype=dtype)
    model = architecture(SMOLLM2 | changes)
    per_layer = kept_bytes(3, settings, **changes) - kept_bytes(2, settings, **changes)
    assert per_layer / PACK == pytest.approx(layer_bytes(model, settings), rel=0.05)
