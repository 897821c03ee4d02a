"""Every family against Transformers, in one process and split over two, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from stages.contracts.errors import StageError
from stages.megatron.model import padded_vocabulary
from stages.megatron.rotary import RotaryByPosition, inverse_frequencies
from stages.model_files.config import read_config
from stages.model_files.families import architecture
from tests.probes import weights as weights_probe
from tests.support.model_families import FAMILIES, GEMMA3_ROPE, write
from tests.support.ranks import succeed

LAYOUTS = {"single": (1, 1), "tp2": (2, 1), "pp2": (1, 2)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A directory of every family in float32 and in bfloat16, and each float32 model's own logits."""
    folder = tmp_path_factory.mktemp("models")
    tokens = torch.randint(0, 321, (3, 40), generator=torch.Generator().manual_seed(0))
    save_file({"tokens": tokens}, folder / "tokens.safetensors")
    for family in FAMILIES:
        write(family, folder / f"{family}-bf16", torch.bfloat16)
        model = write(family, folder / family)
        with torch.no_grad():
            save_file({"logits": model(tokens).logits}, folder / f"{family}.safetensors")
    return folder


@pytest.fixture(scope="module", params=LAYOUTS)
def saved(request, models, tmp_path_factory):
    """What the probe saves under a layout of ranks."""
    output = tmp_path_factory.mktemp(request.param)
    tensor, pipeline = LAYOUTS[request.param]
    if request.param == "single":
        weights_probe.run(models, tensor, pipeline, output)
    else:
        succeed(weights_probe.run, models, tensor, pipeline, output, ranks=2)
    return output


def tensors(directory):
    """All tensors of a saved model, and those of each of its files."""
    files = {path.name: load_file(path) for path in sorted(directory.glob("*.safetensors"))}
    return {name: tensor for part in files.values() for name, tensor in part.items()}, files


@pytest.mark.slow
def test_logits_agree_with_transformers(saved, models):
    for family in FAMILIES:
        found, expected = (load_file(folder / f"{family}.safetensors")["logits"] for folder in (saved, models))
        assert (found - expected).abs().max() < 1e-4, family
        assert expected.std() > 0.3, f"{family}: too flat to tell models apart"


@pytest.mark.slow
def test_a_round_trip_keeps_every_bit(saved, models):
    """Names, values and type, in float32 and in bfloat16; a padded vocabulary has its own size again."""
    for family in [*FAMILIES, *(f"{family}-bf16" for family in FAMILIES)]:
        before, after = tensors(models / family)[0], tensors(saved / family)[0]
        assert before.keys() == after.keys(), family
        for name, tensor in before.items():
            assert tensor.dtype == after[name].dtype == (torch.bfloat16 if "bf16" in family else torch.float32)
            assert torch.equal(tensor, after[name]), (family, name)
        config = json.loads((saved / family / "config.json").read_text())
        assert config["dtype"] == ("bfloat16" if "bf16" in family else "float32")


@pytest.mark.slow
def test_files_are_of_the_asked_for_size_and_indexed(saved):
    total, files = tensors(saved / "llama")
    count = len(files)
    assert count > 3
    assert list(files) == [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    for part in files.values():
        assert len(part) == 1 or sum(tensor.nbytes for tensor in part.values()) <= weights_probe.SHARD_BYTES
    index = json.loads((saved / "llama/model.safetensors.index.json").read_text())
    assert index["weight_map"] == {name: file for file, part in files.items() for name in part}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in total.values())


def config(family, **changes):
    return {**FAMILIES[family].to_dict(), "architectures": [architecture_name(family)], **changes}


def architecture_name(family):
    model_type = FAMILIES[family].model_type.removesuffix("_text")
    return f"{model_type.capitalize()}ForCausalLM"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["MambaForCausalLM"]},
            "architecture MambaForCausalLM is not supported; supported are LlamaForCausalLM",
        ),
        ({"architectures": None}, "architecture unknown is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu' is not supported, only 'silu'"),
        (
            {"rope_parameters": {"rope_type": "yarn"}},
            "rope_type 'yarn' is not supported; supported are default",
        ),
        ({"rope_parameters": {"rope_type": "linear"}}, "key 'factor' is missing, which LlamaForCausalLM needs"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5 is not supported for Llama"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is not supported"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config("llama", **changes)))
    with pytest.raises(StageError, match=f"config.json: {message}"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen2-window", {"layer_types": ["chunked_attention"] * 2}, "layer_types .* are not supported"),
        ("gemma3", {"layer_types": ["full_attention"]}, "layer_types .* are not supported"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention is not supported"),
        (
            "gemma2",
            {"hidden_activation": "gelu"},
            "hidden_activation 'gelu' is not supported",
        ),
        ("nemotron", {"hidden_act": "silu"}, "hidden_act 'silu' is not supported, only 'relu2'"),
    ],
)
def test_options_of_a_family_are_refused_by_name(family, changes, message):
    with pytest.raises(StageError, match=message):
        architecture(config(family, **changes))


def test_a_missing_size_is_named():
    with pytest.raises(StageError, match="key 'hidden_size' is missing"):
        architecture({name: value for name, value in config("llama").items() if name != "hidden_size"})


def test_windows_follow_each_familys_rule():
    def windows(family, layers, **changes):
        changes = {"num_hidden_layers": layers, "layer_types": None, "sliding_window": 9, **changes}
        return architecture(config(family, **changes)).windows

    assert windows("llama", 2) == (None, None)
    assert windows("mistral", 2) == (9, 9)
    assert windows("mistral", 2, sliding_window=None) == (None, None)
    assert windows("qwen2", 4, max_window_layers=3, use_sliding_window=True) == (None, None, None, 9)
    assert windows("qwen2", 4, max_window_layers=0, use_sliding_window=False) == (None, None, None, None)
    assert windows("gemma2", 3) == (9, None, 9)
    assert windows("gemma3", 7) == (9, 9, 9, 9, 9, None, 9)
    assert windows("gemma3", 3, sliding_window_pattern=3) == (9, 9, None)
    assert windows("gemma3", 2, layer_types=["full_attention", "sliding_attention"]) == (None, 9)


def test_files_of_older_transformers_mean_the_same():
    """Rotary settings at the top level, Gemma 3's bases apart, ties that are only a default."""
    new = config("gemma3")
    old = {key: value for key, value in new.items() if key not in ("rope_parameters", "tie_word_embeddings")}
    full, sliding = GEMMA3_ROPE["full_attention"], GEMMA3_ROPE["sliding_attention"]
    old |= {"rope_theta": full["rope_theta"], "rope_local_base_freq": sliding["rope_theta"]}
    old |= {"rope_scaling": {"type": "linear", "factor": full["factor"]}}
    assert architecture(old) == architecture(new)
    assert architecture(new).rope_of_layer == (1, 0)
    llama = {key: value for key, value in config("llama").items() if key != "rope_parameters"}
    assert architecture({**llama, "rope_theta": 77.0}).ropes[0].base == 77.0
    assert not architecture({key: value for key, value in llama.items() if key != "tie_word_embeddings"}).tied


@pytest.mark.parametrize("family", ["llama-biased", "llama-mlp-bias"], ids=["linear", "llama3"])
def test_inverse_frequencies_are_those_of_transformers(family):
    hf = FAMILIES[family]
    expected, scale = ROPE_INIT_FUNCTIONS[hf.rope_parameters["rope_type"]](hf)
    (rope,) = architecture(config(family)).ropes
    assert scale == 1
    assert rope.dimensions == 24
    torch.testing.assert_close(inverse_frequencies(rope), expected, rtol=1e-6, atol=0)


def test_llama3_frequencies_stretch_long_waves_only():
    (rope,) = architecture(config("llama-mlp-bias")).ropes
    plain = 1 / 500.0 ** (torch.arange(0, 24, 2) / 24)
    ratio = plain / inverse_frequencies(rope)
    wavelengths = 2 * torch.pi / plain
    assert torch.allclose(ratio[wavelengths < 64 / 6], torch.tensor(1.0))
    assert torch.allclose(ratio[wavelengths > 64 / 2], torch.tensor(4.0))
    between = ratio[(wavelengths > 64 / 6) & (wavelengths < 64 / 2)]
    assert len(between)
    assert ((between > 1) & (between < 4)).all()


def test_rotary_angles_follow_the_positions():
    class Batch:
        positions = torch.tensor([0, 1, 2, 0, 1, 7])

    ropes = architecture(config("gemma3")).ropes
    rotary = RotaryByPosition(ropes, torch.device("cpu")).to(torch.bfloat16)
    angles, all_angles = rotary(Batch), rotary(8)
    assert angles.shape == (6, 2, 1, 24)
    assert angles.dtype == torch.float32
    assert torch.equal(angles, all_angles[Batch.positions])
    for kind, rope in enumerate(ropes):
        assert torch.equal(angles[5, kind, 0], 7 * inverse_frequencies(rope).repeat(2))
    assert not rotary.state_dict()


def test_a_vocabulary_is_padded_to_the_next_multiple():
    assert [padded_vocabulary(321, ranks) for ranks in (1, 2, 4, 107)] == [321, 322, 324, 321]
