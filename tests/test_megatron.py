"""Megatron against Transformers, and every layout of ranks against one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from stages.config import MegatronSettings
from stages.errors import StageError
from stages.megatron import weights
from stages.megatron.cpu import cuda_or_cpu
from stages.megatron.hf_config import read_config
from stages.megatron.model import build_model
from stages.megatron.parallel import world

ROOT = Path(__file__).parents[1]
SIZE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZE),
    "llama-tied": LlamaConfig(**SIZE, tie_word_embeddings=True),
    "llama3-rope": LlamaConfig(
        **SIZE,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 500000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    ),
    "mistral": MistralConfig(**SIZE, sliding_window=None),
    "qwen2": Qwen2Config(**SIZE),
    "qwen3": Qwen3Config(**SIZE),
}


def megatron_logits(directory, tokens, saved=None):
    hf = read_config(directory)
    with world(MegatronSettings()) as rank:
        model = build_model(hf, torch.float32, rank.device)
        weights.load([model], directory, hf)
        with torch.no_grad(), cuda_or_cpu():
            logits = model.eval()(tokens, None, None)
        if saved:
            weights.save([model], saved, hf, source=directory)
        return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_round_trip(family, tmp_path):
    torch.manual_seed(0)
    config = FAMILIES[family]
    reference = AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in reference.named_parameters():
        if name.endswith("bias"):  # Transformers starts biases at zero, where a lost one would not show
            torch.nn.init.normal_(parameter, std=0.2)
    reference.save_pretrained(tmp_path / "hf")
    tokens = torch.randint(0, 320, (3, 40))
    logits = megatron_logits(tmp_path / "hf", tokens, saved=tmp_path / "back")
    with torch.no_grad():
        expected = reference(tokens).logits
    assert (logits - expected).abs().max() < 1e-4
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("hf", "back"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


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


def test_unsupported_architectures_are_refused_with_the_list(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["MambaForCausalLM"]}))
    with pytest.raises(StageError, match="MambaForCausalLM is not supported; supported are LlamaForCausalLM"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), r"tensor model\.norm\.weight is missing"),
        (lambda t: t.update({"model.norm.weight": torch.ones(3)}), "but config.json asks for"),
        (lambda t: t["model.norm.weight"].fill_(float("nan")), r"model\.norm\.weight holds NaN"),
    ],
)
def test_damaged_weights_are_named(damage, message, tiny_model_dir, tmp_path):
    tensors = load_file(tiny_model_dir / "model.safetensors")
    damage(tensors)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((tiny_model_dir / "config.json").read_text())
    with pytest.raises(StageError, match=message):
        megatron_logits(tmp_path, torch.zeros(1, 2, dtype=torch.long))


def test_truncated_safetensors_are_named(tiny_model_dir, tmp_path):
    whole = (tiny_model_dir / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "config.json").write_text((tiny_model_dir / "config.json").read_text())
    with pytest.raises(StageError, match=r"model\.safetensors: not a readable safetensors file"):
        megatron_logits(tmp_path, torch.zeros(1, 2, dtype=torch.long))
