"""The trainer in every layout of ranks against one process, and with each of its techniques against without."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from stages.config import MegatronSettings
from stages.megatron import weights
from stages.megatron.cpu import cuda_or_cpu
from stages.megatron.model import build_model
from stages.megatron.parallel import world
from stages.model_files.config import read_config
from tests.probes import layouts
from tests.support.ranks import succeed

ROOT = Path(__file__).parents[2]
SIZE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
TWO_RANKS = {
    "dp2": {},
    "dp2 distributed optimizer": {"distributed_optimizer": True},
    "tp2": {"tensor_parallel": 2},
    "tp2 sequence parallel": {"tensor_parallel": 2, "sequence_parallel": True},
    "pp2": {"pipeline_parallel": 2},
    "pp2 recompute": {"pipeline_parallel": 2, "recompute": True},
    "cp2": {"context_parallel": 2},
}
FOUR_RANKS = {
    "tp2 pp2": {"tensor_parallel": 2, "pipeline_parallel": 2},
    "tp2 dp2": {"tensor_parallel": 2, "distributed_optimizer": True},
    "tp2 cp2": {"tensor_parallel": 2, "context_parallel": 2, "sequence_parallel": True, "recompute": True},
    "pp2 dp2": {"pipeline_parallel": 2, "distributed_optimizer": True},
    "pp4 interleaved": {"pipeline_parallel": 4, "pipeline_chunks": 2},
}
RESUMED = ("dp2 distributed optimizer", "tp2", "pp2", "pp2 dp2", "pp4 interleaved")
TECHNIQUES = {
    "padded rows": {"packing": False},
    "prompts twice": {"share_prompts": False},
    "all logits": {"loss_logits_only": False},
    "no fused attention": {"attention": "eager"},
    "small chunks": {"logprob_chunk_tokens": 7},
    "recompute": {"recompute": True},
    "distributed optimizer": {"distributed_optimizer": True},
    "one pair at a time": {"micro_batch_tokens": 1},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A Llama with tied embeddings and a vocabulary that two ranks cannot halve, and a Qwen3, without."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    llama = LlamaConfig(**SIZE, vocab_size=321, num_hidden_layers=8, tie_word_embeddings=True)
    LlamaForCausalLM(llama).save_pretrained(folder / "llama")
    qwen = Qwen3Config(**SIZE, vocab_size=320, num_hidden_layers=2, head_dim=16)
    Qwen3ForCausalLM(qwen).save_pretrained(folder / "qwen3")
    return folder


def read_case(folder):
    tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return json.loads((folder / "steps.json").read_text()), tensors


@pytest.fixture(scope="module")
def single(models, tmp_path_factory):
    """One process: both objectives, and each technique."""
    folder = tmp_path_factory.mktemp("single")
    cases = {objective: {"objective": objective} for objective in ("dpo", "sft")} | TECHNIQUES
    for case, values in cases.items():
        layouts.run(models / "llama", folder / case, **values)
    return {case: read_case(folder / case) for case in cases}


def trained(model, folder, ranks, **values):
    """Metrics and weights of a training on several ranks."""
    succeed(partial(layouts.run, model, folder, **values), ranks=ranks)
    return read_case(folder)


def assert_alike(found, expected):
    """Losses, gradient norms and all weights to 1e-5."""
    for step, other in zip(found[0], expected[0], strict=True):
        assert step == pytest.approx(other, rel=1e-5, abs=1e-5)
    assert found[1].keys() == expected[1].keys()
    differences = torch.cat([(value - expected[1][key]).abs().flatten() for key, value in found[1].items()])
    assert differences.max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dpo", "sft"])
@pytest.mark.parametrize("layout", [*TWO_RANKS, *FOUR_RANKS])
def test_layouts_train_alike(layout, objective, single, models, tmp_path):
    """Seven pairs, which no number of replicas divides: were one lost or counted twice, the losses would differ."""
    ranks, values = (2, TWO_RANKS[layout]) if layout in TWO_RANKS else (4, FOUR_RANKS[layout])
    assert_alike(trained(models / "llama", tmp_path, ranks, objective=objective, **values), single[objective])


@pytest.mark.slow
@pytest.mark.parametrize("layout", RESUMED)
def test_a_resumed_training_is_exact_in_any_layout(layout, models, tmp_path):
    """In bf16 it is the undisturbed one, to the bit."""
    ranks, values = (2, TWO_RANKS[layout]) if layout in TWO_RANKS else (4, FOUR_RANKS[layout])
    run = partial(layouts.run, models / "llama", tmp_path, objective="resume", dtype="bfloat16", **values)
    succeed(run, ranks=ranks)
    assert json.loads((tmp_path / "steps.json").read_text()) is True


@pytest.fixture(scope="module")
def single_qwen3(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen3")
    layouts.run(models / "qwen3", folder)
    return read_case(folder)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["tp2 sequence parallel", "cp2", "pp2"])
def test_another_family_trains_alike_in_parts(layout, single_qwen3, models, tmp_path):
    """Query and key norms, untied embeddings: over sequence- and context-parallel ranks, too."""
    assert_alike(trained(models / "qwen3", tmp_path, 2, **TWO_RANKS[layout]), single_qwen3)


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_technique_changes_speed_alone(technique, single):
    assert_alike(single[technique], single["dpo"])


def test_training_lowers_the_loss(single):
    for objective, loss in (("dpo", "loss"), ("sft", "sft_loss")):
        steps, _ = single[objective]
        assert steps[2][loss] < steps[0][loss]


def megatron_logits(directory, tokens):
    facts = read_config(directory)
    with world(MegatronSettings(), facts) as rank:
        model = build_model(facts, MegatronSettings(), rank.device)
        weights.load(model, directory, facts)
        with torch.no_grad(), cuda_or_cpu():
            return model[0].eval()(tokens, None, None)


def test_the_shipped_model_agrees_with_transformers():
    base = ROOT / "examples/tinyworld/base"
    tokens = torch.randint(0, 600, (4, 60), generator=torch.Generator().manual_seed(0))
    reference = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = reference(tokens).logits
    assert (megatron_logits(base, tokens) - expected).abs().max() < 1e-4
