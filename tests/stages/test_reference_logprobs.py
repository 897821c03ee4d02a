"""Log-probabilities of the reference: a training insists on those of its own model and pairs."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from stages import reference_logprobs, tables, train
from stages.contracts.artifacts import read, write
from stages.contracts.errors import StageError
from stages.model_files.manifest import write_manifest
from stages.training import task as train_task
from tests.support.preference_task import arguments, logprobs, trained


def test_a_table_of_overlong_pairs_has_no_reference_and_trains_nothing(preferences, tmp_path):
    short = {"max_sequence_length": 2}
    output = tmp_path / "reference.parquet"
    reference_logprobs.main(
        reference_logprobs.Args(model=preferences["model"], pairs=preferences["pairs"], output=output, megatron=short)
    )
    assert read(output, tables.REFERENCE_LOGPROBS).is_empty()
    with pytest.raises(StageError, match=r"nothing to train on: 0 of 24; left out: 24 overlong"):
        trained({**preferences, "reference_logprobs": output}, tmp_path, megatron=short)


def change_weights(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][0] += 1e-3
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def change_tokenizer(folder):
    spec = json.loads((folder / "tokenizer.json").read_text())
    spec["added_tokens"][0]["content"] = "<other>"
    (folder / "tokenizer.json").write_text(json.dumps(spec))


def change_template(folder):
    (folder / "chat_template.jinja").write_text((folder / "chat_template.jinja").read_text() + " ")


@pytest.mark.parametrize("manifest", [False, True])
@pytest.mark.parametrize("change", [change_weights, change_tokenizer, change_template])
def test_another_reference_stops_the_training(change, manifest, preferences, tmp_path):
    """Whether its identity is in a manifest or has to be computed."""
    model = tmp_path / "model"
    shutil.copytree(preferences["model"], model)
    if manifest:
        write_manifest(model)
    reference = logprobs(model, preferences["pairs"], tmp_path)
    args = arguments({**preferences, "model": model, "reference_logprobs": reference}, tmp_path)
    assert train_task.load_task(args, train_task.read_digests(args)).from_reference
    change(model)
    if manifest:
        write_manifest(model)
    with pytest.raises(StageError, match=r"reference\.parquet: computed by another model than .*chat template differ"):
        train.main(args)
    assert not (tmp_path / "models").exists()
    aside = args.model_copy(
        update={"reference_model": preferences["model"], "reference_logprobs": preferences["reference_logprobs"]}
    )
    assert not train_task.load_task(aside, train_task.read_digests(aside)).from_reference


def test_other_pairs_stop_the_training(preferences, tmp_path):
    kept = read(preferences["pairs"], tables.PAIRS).head(20)
    write(kept, tmp_path / "fewer.parquet", tables.PAIRS, {})
    with pytest.raises(StageError, match=r"reference\.parquet: computed for other pairs than .*fewer\.parquet"):
        trained({**preferences, "pairs": tmp_path / "fewer.parquet"}, tmp_path)


def test_a_damaged_reference_computes_nothing(preferences, tmp_path):
    model = shutil.copytree(preferences["model"], tmp_path / "model")
    write_manifest(model)
    change_weights(model)
    output = tmp_path / "reference.parquet"
    with pytest.raises(StageError, match=r"model\.safetensors: damaged, its content is not that of which manifest"):
        reference_logprobs.main(reference_logprobs.Args(model=model, pairs=preferences["pairs"], output=output))
    assert not output.exists()
