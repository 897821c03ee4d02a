"""Weights between Hugging Face directories and Megatron's shards: what is refused, what survives a failure, memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from stages.config import MegatronSettings
from stages.contracts.errors import StageError
from stages.megatron import weights
from stages.megatron.mapping import expected_names
from stages.megatron.model import build_model
from stages.megatron.parallel import world
from stages.model_files.config import read_config
from stages.model_files.tensors import TensorFiles

ROOT = Path(__file__).parents[2]
INDEX = "model.safetensors.index.json"


@pytest.fixture
def model(tiny_model_dir, tmp_path):
    """A copy of the tiny model that a test may damage."""
    folder = tmp_path / "model"
    folder.mkdir()
    for path in tiny_model_dir.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def load(directory):
    facts = read_config(directory)
    with world(MegatronSettings(), facts) as rank:
        weights.load(build_model(facts, MegatronSettings(), rank.device), directory, facts)


def load_and_save(directory, output, change=0.0, **options):
    facts = read_config(directory)
    with world(MegatronSettings(), facts) as rank:
        (built,) = build_model(facts, MegatronSettings(), rank.device)
        weights.load([built], directory, facts)
        with torch.no_grad():
            built.decoder.final_layernorm.weight.add_(change)
        weights.save([built], output, facts, directory, rank, **options)


def rewrite(directory, change):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


NORM = "model.norm.weight"
PROJECTION = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop(NORM), rf"tensor {NORM} is missing"),
        (
            lambda t: t.update({NORM: torch.ones(3)}),
            rf"model\.safetensors: tensor {NORM} has shape \(3,\), but .* \(64,\)",
        ),
        (lambda t: t.update({PROJECTION: t[PROJECTION].T.contiguous()}), rf"{PROJECTION} has shape \(128, 64\)"),
        (lambda t: t[NORM].fill_(float("nan")), rf"model\.safetensors: tensor {NORM} holds NaN or infinite"),
        (lambda t: t[PROJECTION][3, 5].fill_(float("inf")), rf"model\.safetensors: tensor {PROJECTION} holds NaN"),
        (lambda t: t[PROJECTION][3, 5].fill_(-float("inf")), rf"model\.safetensors: tensor {PROJECTION} holds NaN"),
        (lambda t: t.update({NORM: torch.ones(64, dtype=torch.int8)}), rf"tensor {NORM} has type I8; only F64, F32"),
        (lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.ones(1)}), "layers.2.mlp.* has no place in"),
        (lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}), "q_proj.bias has no place in"),
    ],
)
def test_damaged_tensors_are_named(damage, message, model):
    rewrite(model, damage)
    with pytest.raises(StageError, match=message):
        load(model)


def test_buffers_of_older_checkpoints_and_tied_copies_are_ignored(model, tmp_path):
    expected = load_file(model / "model.safetensors")
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8), "lm_head.weight": torch.ones(320, 64)}
    rewrite(model, lambda tensors: tensors.update(extra))
    load_and_save(model, tmp_path / "saved")
    found = load_file(tmp_path / "saved/model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_truncated_file_is_named(kept, model):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StageError, match=r"model\.safetensors: not a readable safetensors file"):
        load(model)


def shard(directory):
    """Lay the model out in two files with an index."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    for number, part in enumerate((names[:9], names[9:])):
        save_file({name: tensors[name] for name in part}, directory / f"part-{number}.safetensors")
    weight_map = {name: f"part-{int(place >= 9)}.safetensors" for place, name in enumerate(names)}
    (directory / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return weight_map


def test_the_index_says_which_files_are_the_model(model, tmp_path):
    expected = load_file(model / "model.safetensors")
    shard(model)
    save_file({"tok_embeddings.weight": torch.ones(2)}, model / "consolidated.safetensors")  # as Mistral's have it
    load_and_save(model, tmp_path / "saved")
    found = load_file(tmp_path / "saved/model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: (m / "part-1.safetensors").unlink(), rf"{INDEX}: names part-1\.safetensors, which is not there"),
        (lambda m: (m / INDEX).write_text("{"), rf"{INDEX}: not valid JSON"),
        (lambda m: (m / INDEX).write_text("{}"), rf"{INDEX}: no weight_map"),
        (lambda m: (m / INDEX).write_text('{"weight_map": {"a": "../x.safetensors"}}'), "names x.safetensors, which"),
        (
            lambda m: (m / INDEX).unlink(),
            "neither model.safetensors nor model.safetensors.index.json; only safetensors",
        ),
        (
            lambda m: save_file({NORM: torch.ones(64)}, m / "part-0.safetensors"),
            rf"part-1\.safetensors: tensor {NORM} is also in part-0",
        ),
    ],
)
def test_a_broken_set_of_files_is_named(damage, message, model):
    shard(model)
    damage(model)
    with pytest.raises(StageError, match=message):
        load(model)


def test_pickled_weights_are_never_opened(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(StageError, match="only safetensors are read, convert other weights first"):
        load(model)


def test_expected_names_are_those_of_the_checkpoint(tiny_model_dir):
    assert expected_names(read_config(tiny_model_dir)) == load_file(tiny_model_dir / "model.safetensors").keys()


def test_what_is_not_weights_is_carried_unchanged(model, tmp_path):
    extra = ("added_tokens.json", "vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer.model")
    for name in extra:
        (model / name).write_bytes(b" {}\r\n" if name == "special_tokens_map.json" else f" {name}\r\n\xe9".encode())
    (model / "pytorch_model.bin").write_bytes(b"never carried")
    load_and_save(model, tmp_path / "saved")
    carried = [*extra, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]
    for name in carried:
        assert (tmp_path / "saved" / name).read_bytes() == (model / name).read_bytes()
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        *carried,
        "config.json",
        "manifest.json",
        "model.safetensors",
    }
    before, after = (json.loads((folder / "config.json").read_text()) for folder in (model, tmp_path / "saved"))
    assert after == {**before, "dtype": "float32"}


@pytest.mark.parametrize(("declared", "named"), [(0, [0, 4]), ([7], [7, 4]), ([4], [4]), (None, [4])])
def test_the_saved_model_ends_where_its_template_ends_a_turn(declared, named, model, tmp_path):
    """Its generation_config.json named another token than the template's: Transformers ran past the end of the turn."""
    path = model / "generation_config.json"
    path.unlink() if declared is None else path.write_text(json.dumps({"eos_token_id": declared, "top_k": 7}))
    load_and_save(model, tmp_path / "saved")
    written = json.loads((tmp_path / "saved/generation_config.json").read_text())
    assert written == {"eos_token_id": named, **({} if declared is None else {"top_k": 7})}


def test_transformers_stops_at_the_end_of_a_turn_of_a_saved_model(model, tmp_path):
    from transformers import AutoModelForCausalLM

    (model / "generation_config.json").write_text('{"eos_token_id": 0}')
    load_and_save(model, tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    always_ends = torch.zeros(1, 1, loaded.config.vocab_size)
    always_ends[..., 4] = 1.0
    loaded.lm_head.register_forward_hook(lambda module, given, logits: always_ends)
    tokens = loaded.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=5, do_sample=False, pad_token_id=0)
    assert tokens.tolist() == [[5, 6, 7, 4]]


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_all_files_of_a_saved_model_have_the_mode_of_new_files(mask, model, tmp_path):
    """safetensors writes through a temporary file of its own, which only its owner can read."""
    before = os.umask(mask)
    try:
        load_and_save(model, tmp_path / "saved", shard_bytes=50_000)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "saved").iterdir()}
    assert modes == dict.fromkeys(modes, 0o666 & ~mask)


def no_space(fail_at):
    """`save_file` of a disk that is full when the given file (from 0) is written."""
    calls = iter(range(100))

    def write(tensors, path, metadata):
        if next(calls) == fail_at:
            Path(path).write_bytes(b"half a file")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(tensors, path, metadata=metadata)

    return write


@pytest.mark.parametrize("fail_at", [0, 2])
def test_a_full_disk_leaves_the_model_that_was_there(fail_at, model, tmp_path, monkeypatch):
    output = tmp_path / "saved"
    load_and_save(model, output, shard_bytes=50_000)
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    monkeypatch.setattr(weights, "save_file", no_space(fail_at))
    with pytest.raises(StageError, match=r"saved: cannot write .* No space left on device"):
        load_and_save(model, output, change=1.0, shard_bytes=50_000)
    assert {name: (output / name).read_bytes() for name in before} == before
    monkeypatch.undo()
    load_and_save(model, output, change=1.0)  # the next try succeeds, and clears up
    assert {path.name for path in output.glob("*model*")} == {"model.safetensors"}
    assert not list(output.glob(".*"))


def test_a_save_that_is_killed_while_it_publishes_leaves_no_manifest(model, tmp_path, monkeypatch):
    output = tmp_path / "saved"
    load_and_save(model, output, shard_bytes=50_000)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "carry", killed)
    with pytest.raises(KeyboardInterrupt):
        load_and_save(model, output, change=1.0, shard_bytes=50_000)
    assert not (output / "manifest.json").exists()


def test_loading_reads_each_byte_once_and_one_slice_at_a_time(model, monkeypatch):
    """A rank of one: all tensors, each once."""
    read = []
    original = TensorFiles.read

    def counting(self, name, *arguments):
        part = original(self, name, *arguments)
        read.append((name, part.nbytes))
        return part

    monkeypatch.setattr(TensorFiles, "read", counting)
    load(model)
    expected = {name: tensor.nbytes for name, tensor in load_file(model / "model.safetensors").items()}
    assert len(read) == len(expected)
    assert dict(read) == expected


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_memory_stays_bounded(tmp_path):
    """A rank that loads holds one slice beside its shard; one that saves, one file's tensors and one part of a tensor.

    240 MB of bfloat16 on two tensor-parallel ranks, files of 32 MiB. 16 MiB are granted to libraries; the allocator
    is told to give back what is freed, or its reserve would be measured too.
    """
    output = tmp_path / "memory.json"
    command = [sys.executable, str(ROOT / "benchmarks/weights_memory.py"), "--megabytes", "240", "--shard-mib", "32"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "1000000"}
    done = subprocess.run(
        [*command, "--ranks", "2", "--output", str(output)],
        env=environment,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (layout,) = json.loads(output.read_text())["layouts"]
    for rank in layout["ranks"]:
        assert rank["shard_mib"] > 100
        assert rank["load_extra_mib"] < rank["largest_slice_mib"] + 16
        assert rank["save_extra_mib"] < 32 + rank["largest_slice_mib"] + 16
