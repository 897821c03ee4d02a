"""Transformer Engine's attention, through a double of it, against PyTorch's; and which of the two a model gets."""

import json
import sys

import numpy as np
import pytest
import torch
from megatron.core.transformer.enums import AttnMaskType
from safetensors.torch import load_file

from stages.config import MegatronSettings
from stages.contracts.errors import StageError
from stages.megatron import attention
from stages.megatron import transformer_engine as varlen
from stages.megatron.attention import PackedAttention
from stages.megatron.model import transformer_config
from stages.megatron.parallel import world
from stages.megatron.transformer_engine import TransformerEngineAttention, check_attention, core_attention
from stages.model_files.config import read_config
from stages.model_files.families import architecture
from stages.training.packing import Part, Row, pack
from tests.probes import layouts as megatron_probe
from tests.support import model_families
from tests.support.transformer_engine_double import HALF, World, install

CPU = torch.device("cpu")
HF = {
    "architectures": ["MistralForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 64,
    "max_position_embeddings": 256,
    "rope_theta": 10000.0,
    "sliding_window": None,
}
BF16 = {"dtype": "bfloat16"}
PACKS = {
    "shared prompts": (True, Part()),
    "prompts twice": (False, Part()),
    "padded to a multiple": (True, Part(0, 1, 8)),
    "first of two ranks": (True, Part(0, 2, 1)),
    "second of two ranks": (True, Part(1, 2, 1)),
    "last of three ranks": (True, Part(2, 3, 2)),
}


def config_of(changes=None, settings=None):
    """Megatron's configuration of the model, with changes."""
    return transformer_config(architecture({**HF, **(changes or {})}), settings or MegatronSettings())


@pytest.fixture
def engine(monkeypatch):
    """The double, in float32, so that nothing but the order of sums tells it from PyTorch's attention."""
    engine = World((torch.float32,))
    install(monkeypatch, engine)
    return engine


@pytest.fixture
def gpu(monkeypatch):
    """A machine with Transformer Engine as it is, and a GPU, as far as anyone asks."""
    engine = World(HALF)
    install(monkeypatch, engine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return engine


def random_pack(share, part):
    """Six pairs with prompts of 0 to 9 tokens, none of which is another's, and answers of 1 to 20."""
    rng = np.random.default_rng(0)
    examples = []
    for number in range(6):
        prompt = rng.integers(0, 5, (0, 1, 9, 4, 0, 7)[number])
        members = [np.r_[prompt, 5 + side, rng.integers(0, 5, rng.integers(1, 20))] for side in (0, 1)]
        examples.append([Row(tokens, np.ones(len(tokens), np.float32)) for tokens in members])
    return pack(examples, share, True, part, CPU)[1]


def attend(kind, config, packing, keys):
    """Output and gradients of the first layer's attention for random queries, keys and values."""
    generator = torch.Generator().manual_seed(0)
    width, facts = config.kv_channels, config.architecture
    shapes = [(len(packing.positions), 1, facts.heads, width), *[(keys, 1, facts.groups, width)] * 2]
    given = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    out = kind(config, 1, AttnMaskType.causal)(*given, None, packed_seq_params=packing)
    return out, *torch.autograd.grad(out, given, torch.randn(out.shape, generator=generator))


@pytest.mark.parametrize("window", [None, 1, 3, 12, 500])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("case", PACKS)
def test_one_call_is_every_block(case, groups, window, engine, monkeypatch):
    """Under context parallelism, too, where the keys and values that come in stand for those of all ranks, joined."""
    for module in (attention, varlen):
        monkeypatch.setattr(module, "join", lambda part: part)
    packing = random_pack(*PACKS[case])
    keys = len(packing.positions) if packing.order is None else len(packing.order)
    config = config_of({"num_key_value_heads": groups, "sliding_window": window})
    expected = attend(PackedAttention, config, packing, keys)
    found = attend(TransformerEngineAttention, config, packing, keys)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).abs().max() < 1e-5
    assert engine.calls == 1
    assert len(packing.blocks) > 5


def test_the_models_own_scale_is_used(engine):
    gemma = {"architectures": ["Gemma3ForCausalLM"], "query_pre_attn_scalar": 3, "sliding_window": 9}
    config = config_of({**gemma, "layer_types": ["full_attention"] * 2})
    found, expected = (
        attend(kind, config, packing, len(packing.positions))
        for kind in (TransformerEngineAttention, PackedAttention)
        for packing in [random_pack(True, Part())]
    )
    assert config.softmax_scale == 3**-0.5
    assert (found[0] - expected[0]).abs().max() < 1e-5


def test_keys_are_gathered_only_where_they_do_not_stand_in_order():
    assert random_pack(True, Part()).segments.gather is not None
    assert random_pack(False, Part()).segments.gather is None


def test_padded_rows_are_left_to_pytorch(engine):
    config = config_of()
    rows = [torch.randn(7, 3, heads, 16) for heads in (4, 2, 2)]
    layers = [kind(config, 1, AttnMaskType.causal) for kind in (TransformerEngineAttention, PackedAttention)]
    assert torch.equal(*(layer(*rows, None) for layer in layers))
    assert engine.calls == 0


def test_a_layer_adds_nothing_to_the_checkpoint(engine):
    layer = TransformerEngineAttention(config_of(), 1, AttnMaskType.causal)
    assert layer.state_dict() == {}
    assert "_extra_state" in layer.kernels[0].state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_training_is_the_same(family, engine, monkeypatch, tmp_path):
    """Three steps of DPO; Gemma 3 has windows and a scale of its own."""
    model_families.write(family, tmp_path / "model")
    found = []
    for kind in (PackedAttention, TransformerEngineAttention):
        monkeypatch.setattr("stages.megatron.model.core_attention", lambda *_, kind=kind: kind)
        megatron_probe.run(tmp_path / "model", tmp_path / kind.__name__, recompute=True)
        steps = json.loads((tmp_path / kind.__name__ / "steps.json").read_text())
        (weights,) = (tmp_path / kind.__name__).glob("*.safetensors")
        found.append((steps, load_file(weights)))
    assert engine.calls > 0
    for step, other in zip(*(steps for steps, _ in found), strict=True):
        assert step == pytest.approx(other, rel=1e-5, abs=1e-5)
    assert max((found[0][1][name] - found[1][1][name]).abs().max() for name in found[0][1]) < 1e-5


def chosen(settings, **changes):
    settings = MegatronSettings(**{**BF16, **settings})
    return core_attention(config_of(changes, settings), settings, CPU)


def test_auto_takes_transformer_engine_where_it_can_be_used(gpu):
    assert chosen({}) is TransformerEngineAttention
    assert chosen({}, sliding_window=4) is TransformerEngineAttention
    assert chosen({"tensor_parallel": 2}) is TransformerEngineAttention
    assert chosen({"attention": "transformer_engine"}) is TransformerEngineAttention
    assert chosen({"attention": "sdpa"}) is PackedAttention


GEMMA2 = {"architectures": ["Gemma2ForCausalLM"], "sliding_window": 4}


@pytest.mark.parametrize(
    ("settings", "changes", "reason"),
    [
        ({"dtype": "float32"}, {}, "megatron.dtype is float32"),
        ({"packing": False}, {}, "megatron.packing is off"),
        ({}, GEMMA2, "cannot cap attention scores"),
    ],
)
def test_what_it_cannot_do_is_left_to_pytorch_or_refused(settings, changes, reason, gpu):
    assert chosen(settings, **changes) is PackedAttention
    asked = MegatronSettings(**{**BF16, **settings, "attention": "transformer_engine"})
    with pytest.raises(StageError, match=reason):
        check_attention(asked, architecture({**HF, **changes}))
    assert gpu.calls == 0


def test_a_gpu_without_a_kernel_is_left_to_pytorch_or_refused(gpu, capsys):
    assert chosen({}, head_dim=12) is PackedAttention
    assert "No dot product attention backend" in capsys.readouterr().err
    with pytest.raises(StageError, match="No dot product attention backend"):
        chosen({"attention": "transformer_engine"}, head_dim=12)


def test_without_a_gpu_it_is_not_used(engine):
    assert chosen({}) is PackedAttention
    with pytest.raises(StageError, match="there is no GPU"):
        check_attention(MegatronSettings(**BF16, attention="transformer_engine"), architecture(HF))


@pytest.mark.parametrize("missing", ["transformer_engine", "transformer_engine.pytorch"])
def test_without_the_package_training_ends_before_anything_loads(missing, gpu, monkeypatch, tiny_model_dir):
    monkeypatch.setitem(sys.modules, missing, None)
    assert chosen({}) is PackedAttention
    facts = read_config(tiny_model_dir)
    with (
        pytest.raises(StageError, match=r"not installed \(pip install .*gpu.*\)"),
        world(MegatronSettings(**BF16, attention="transformer_engine"), facts),
    ):
        raise AssertionError("the world began")
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_seqlen_qq": 64}, "max_seqlen_qq"),
        ({"cu_seqlens_q": torch.tensor([0, 4])}, "torch.int32"),
        ({"cu_seqlens_q": torch.tensor([0, 3], dtype=torch.int32)}, "outside of the tokens"),
        ({"cu_seqlens_q": torch.tensor([0, 2, 4], dtype=torch.int32)}, "batch_size"),
        ({"max_seqlen_q": 3}, "longer than is said"),
        ({"query_layer": torch.zeros(4, 1, 4, 16)}, "3D"),
        ({"value_layer": torch.zeros(6, 2, 16)}, "same data type"),
    ],
)
def test_the_double_is_as_strict_as_the_library(changes, message, gpu):
    layer = TransformerEngineAttention(config_of(settings=MegatronSettings(**BF16)), 1, AttnMaskType.causal)
    tokens = {"query_layer": torch.zeros(4, 4, 16), "key_layer": torch.zeros(6, 2, 16)}
    given = {name: part.bfloat16() for name, part in {**tokens, "value_layer": tokens["key_layer"]}.items()}
    given |= {"cu_seqlens_q": torch.tensor([0, 4], dtype=torch.int32), "max_seqlen_q": 64}
    given |= {"cu_seqlens_kv": torch.tensor([0, 6], dtype=torch.int32), "max_seqlen_kv": 64}
    assert layer.kernels[0](**given).shape == (4, 64)
    with pytest.raises((AssertionError, TypeError), match=message):
        layer.kernels[0](**{**given, **changes})


def test_the_double_refuses_masks_and_types_that_the_library_does_not_know(gpu):
    from transformer_engine.pytorch import DotProductAttention

    with pytest.raises(AssertionError, match="not supported"):
        DotProductAttention(4, 16, attn_mask_type="bottom_right")
    packing = random_pack(False, Part())
    with pytest.raises(ValueError, match="No dot product attention backend"):
        attend(TransformerEngineAttention, config_of(), packing, len(packing.positions))
