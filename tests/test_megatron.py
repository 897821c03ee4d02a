"""Megatron against Transformers, and every layout of ranks against one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from stages.config import MegatronSettings
from stages.megatron import weights
from stages.megatron.cpu import cuda_or_cpu
from stages.megatron.hf_config import read_config
from stages.megatron.model import build_model
from stages.megatron.parallel import world

ROOT = Path(__file__).parents[1]


def megatron_logits(directory, tokens):
    hf = read_config(directory)
    with world(MegatronSettings()) as rank:
        model = build_model(hf, torch.float32, rank.device)
        weights.load([model], directory, hf)
        with torch.no_grad(), cuda_or_cpu():
            return model.eval()(tokens, None, None)


def test_the_shipped_model_agrees_with_transformers():
    base = ROOT / "examples/tinyworld/base"
    tokens = torch.randint(0, 600, (4, 60), generator=torch.Generator().manual_seed(0))
    reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = reference(tokens).logits
    assert (megatron_logits(base, tokens) - expected).abs().max() < 1e-4


def probe(model, output, ranks, tensor, pipeline):
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, *launcher, str(ROOT / "tests/megatron_probe.py")]
    arguments = [str(model), str(tensor), str(pipeline), str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    tensors = {}
    for path in output.glob("*.safetensors"):
        tensors |= load_file(path)
    return json.loads((output / "steps.json").read_text()), tensors


@pytest.fixture(scope="module")
def single(tiny_model_dir, tmp_path_factory):
    return probe(tiny_model_dir, tmp_path_factory.mktemp("single") / "model", 1, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 1), (1, 2)], ids=["dp2", "tp2", "pp2"])
def test_layouts_train_alike(tensor, pipeline, single, tiny_model_dir, tmp_path):
    """Losses, gradient norms and weights after three steps equal those of one process."""
    steps, tensors = probe(tiny_model_dir, tmp_path / "model", 2, tensor, pipeline)
    expected_steps, expected_tensors = single
    for step, expected in zip(steps, expected_steps, strict=True):
        assert step == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert tensors.keys() == expected_tensors.keys()
    differences = torch.cat([(value - expected_tensors[key]).abs().flatten() for key, value in tensors.items()])
    # Adam divides each gradient by its own size: where a gradient is rounding noise alone, so is its step.
    assert (differences > 1e-5).double().mean() < 1e-3
    assert differences.mean() < 1e-7


def test_training_lowers_the_loss(single):
    steps, _ = single
    assert steps[2]["loss"] < steps[0]["loss"]
