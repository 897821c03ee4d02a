"""Training as a whole, on a tiny model: its reports, validation, and the reference that it insists on."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.torch import load_file, save_file

from stages import reference_logprobs, tables, train
from stages.contracts import cli
from stages.contracts.artifacts import frame, read, write
from stages.contracts.errors import StageError
from stages.contracts.ids import split_position
from stages.model_files.manifest import write_manifest
from stages.training import task as train_task

ROOT = Path(__file__).parents[2]
LENGTH = 60


def turn(role, content):
    return [{"role": role, "content": content}]


def save_pairs(path):
    """Two pairs for each of 12 prompts; every fourth is a judge pair, one is too long, one has equal members."""
    rng, rows = np.random.default_rng(0), []
    for number in range(24):
        prompt, chosen, rejected = (rng.integers(5, 300, size).tolist() for size in rng.integers(3, 20, 3))
        kind = "judge" if number % 4 == 0 else "actor"
        score = None if kind == "judge" else 2.0 + number / 10
        rows.append(
            {"pair_id": f"{number:02d}", "kind": kind, "prompt_id": f"prompt-{number // 2}",
             "prompt": turn("user", f"Q{number}"), "chosen": turn("assistant", f"C{number}"),
             "rejected": turn("assistant", f"R{number}"), "score_chosen": score, "score_rejected": score and 1.0,
             "prompt_token_ids": prompt, "chosen_token_ids": list(range(5, 205)) if number == 5 else chosen,
             "rejected_token_ids": chosen if number == 3 else rejected, "chosen_candidate_id": "c",
             "rejected_candidate_id": "r"}
        )  # fmt: skip
    write(frame(tables.PAIRS, rows), path, tables.PAIRS, {})
    return path


@pytest.fixture(scope="module")
def data(tiny_model_dir, tmp_path_factory):
    """Pairs and their log-probabilities under the tiny model."""
    folder = tmp_path_factory.mktemp("data")
    pairs = save_pairs(folder / "pairs.parquet")
    return {"model": tiny_model_dir, "pairs": pairs, "reference_logprobs": logprobs(tiny_model_dir, pairs, folder)}


def logprobs(model, pairs, folder):
    output = folder / "reference.parquet"
    megatron = {"max_sequence_length": LENGTH}
    reference_logprobs.main(reference_logprobs.Args(model=model, pairs=pairs, output=output, megatron=megatron))
    return output


def arguments(data, folder, **settings):
    files = {"output": folder / "models/1/manifest.json", "metrics": folder / "train/metrics.parquet"}
    fast = {"optimizer": {"learning_rate": 1e-3, "warmup_steps": 1}, "batch_size": 4, "loggers": []}
    return train.Args(**data, **files, **{"megatron": {"max_sequence_length": LENGTH}, **fast, **settings})


def trained(data, folder, **settings):
    """The reports of a training."""
    train.main(arguments(data, folder, **settings))
    return reports(folder)


def reports(folder):
    kinds = {"metrics": tables.TRAIN_METRICS, "speed": tables.TRAIN_SPEED, "ledger": tables.TRAIN_LEDGER}
    kinds["samples"] = tables.VALIDATION_SAMPLES
    return {name: read(folder / f"train/{name}.parquet", table) for name, table in kinds.items()}


def curve(reports, metric):
    """Values of a metric by step."""
    rows = reports["metrics"].filter(pl.col("metric") == metric).sort("step")
    return dict(zip(rows["step"], rows["value"], strict=True))


def test_a_training_accounts_for_every_pair_and_reports_each_step(data, tmp_path):
    found = trained(data, tmp_path, loggers=["tensorboard"], megatron={"max_sequence_length": LENGTH, "peak_tflops": 1})
    assert sorted(zip(*found["ledger"].select("pair_id", "kind", "reason", "detail"), strict=True)) == [
        ("03", "actor", "identical", "both members are the same tokens"),
        ("05", "actor", "overlong", f"{_length(data, '05')} of at most 60"),
    ]
    known = read(data["reference_logprobs"], tables.REFERENCE_LOGPROBS)["pair_id"].to_list()
    assert known == [f"{number:02d}" for number in range(24) if number not in (3, 5)]
    constants = {name: curve(found, name)[0] for name in ("examples", "held_out", "dropped_share", "bad_share")}
    assert constants == {"examples": 22, "held_out": 0, "dropped_share": 1 / 24, "bad_share": 1 / 24}
    assert curve(found, "loss").keys() == set(range(1, 7))
    assert curve(found, "loss")[1] == pytest.approx(math.log(2), abs=1e-5)
    assert curve(found, "tokens").keys() == set(range(1, 7))
    lengths = [_length(data, key, both=True) for key in known]
    assert sum(curve(found, "tokens").values()) == sum(lengths)
    readings = set(found["speed"]["metric"])
    assert readings == {"seconds", "tokens_per_second", "peak_memory", "mfu"}
    assert not readings & set(found["metrics"]["metric"])
    assert (found["speed"]["value"] > 0).all()
    assert found["samples"].is_empty()
    assert any((tmp_path / "train/tensorboard").glob("events*"))


def _length(data, key, both=False):
    rows = read(data["pairs"], tables.PAIRS).filter(pl.col("pair_id") == key)
    prompt, *members = (len(rows[f"{name}_token_ids"][0]) for name in ("prompt", "chosen", "rejected"))
    return 2 * prompt + sum(members) if both else prompt + max(members)


def test_the_same_training_gives_the_same_metrics_and_weights(data, tmp_path):
    first, second = (trained(data, tmp_path / name, epochs=2) for name in "ab")
    assert first["metrics"].equals(second["metrics"])
    weights = [(tmp_path / name / "models/1/model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_beta_follows_its_schedule(data, tmp_path):
    found = trained(data, tmp_path, iteration=2, beta=[0.1, 0.3])
    assert set(curve(found, "beta").values()) == {0.3}
    first = trained(data, tmp_path / "one", iteration=2, beta=0.1)
    # The first update is the same (Adam divides by the gradient's size): rewards of step 2 are three times as large.
    ratio = curve(found, "reward_chosen")[2] / curve(first, "reward_chosen")[2]
    assert ratio == pytest.approx(3, rel=1e-2)


def test_the_learning_rate_peaks_when_warm_up_ends_and_ends_at_the_floor(data, tmp_path, recwarn):
    rate = {"learning_rate": 1e-3, "min_learning_rate_ratio": 0.1, "warmup_steps": 3, "constant_steps": 1}
    found = curve(trained(data, tmp_path, optimizer=rate), "learning_rate")
    assert list(found.values()) == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 5.5e-4, 1e-4, 1e-4])
    assert [str(warning.message) for warning in recwarn if "lr_scheduler" in str(warning.message)] == []


def test_overlong_pairs_can_be_refused(data, tmp_path):
    with pytest.raises(StageError, match=r"pairs\.parquet: 05 has \d+ of at most 60 tokens"):
        trained(data, tmp_path, overlong="refuse")
    assert list(tmp_path.iterdir()) == []


def test_a_table_of_overlong_pairs_has_no_reference_and_trains_nothing(data, tmp_path):
    short = {"max_sequence_length": 2}
    output = tmp_path / "reference.parquet"
    reference_logprobs.main(
        reference_logprobs.Args(model=data["model"], pairs=data["pairs"], output=output, megatron=short)
    )
    assert read(output, tables.REFERENCE_LOGPROBS).is_empty()
    with pytest.raises(StageError, match=r"nothing to train on: 0 of 24; left out: 24 overlong"):
        trained({**data, "reference_logprobs": output}, tmp_path, megatron=short)


# --- the reference ------------------------------------------------------------------------------------------------


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
def test_another_reference_stops_the_training(change, manifest, data, tmp_path):
    """Whether its identity is in a manifest or has to be computed."""
    model = tmp_path / "model"
    shutil.copytree(data["model"], model)
    if manifest:
        write_manifest(model)
    reference = logprobs(model, data["pairs"], tmp_path)
    args = arguments({**data, "model": model, "reference_logprobs": reference}, tmp_path)
    assert train_task.load_task(args, train_task.read_digests(args)).from_reference
    change(model)
    if manifest:
        write_manifest(model)
    with pytest.raises(StageError, match=r"reference\.parquet: computed by another model than .*chat template differ"):
        train.main(args)
    assert not (tmp_path / "models").exists()
    aside = args.model_copy(update={"reference_model": data["model"], "reference_logprobs": data["reference_logprobs"]})
    assert not train_task.load_task(aside, train_task.read_digests(aside)).from_reference


def test_other_pairs_stop_the_training(data, tmp_path):
    kept = read(data["pairs"], tables.PAIRS).head(20)
    write(kept, tmp_path / "fewer.parquet", tables.PAIRS, {})
    with pytest.raises(StageError, match=r"reference\.parquet: computed for other pairs than .*fewer\.parquet"):
        trained({**data, "pairs": tmp_path / "fewer.parquet"}, tmp_path)


# --- validation ---------------------------------------------------------------------------------------------------

VALIDATION = {"fraction": 0.3, "every_steps": 2, "samples": 3}


def test_held_out_pairs_are_measured_and_never_trained_on(data, tmp_path):
    """D24: validation of another batch size broke, and swapped the loss function of the training."""
    answers = tmp_path / "chat.jsonl"
    answers.write_text(json.dumps({"messages": [*turn("user", "Hello"), *turn("assistant", "world")]}) + "\n")
    found = trained(data, tmp_path, validation={**VALIDATION, "answers": [answers]})
    held_out = found["ledger"].filter(pl.col("reason") == "held_out")
    prompts = {key: f"prompt-{int(key) // 2}" for key in (f"{number:02d}" for number in range(24))}
    outside = {key for key, prompt in prompts.items() if split_position(prompt, "validation") < 0.3} - {"03", "05"}
    assert set(held_out["pair_id"]) == outside != set()
    assert curve(found, "examples")[0] + curve(found, "held_out")[0] == 22
    losses = curve(found, "validation/loss")
    steps = max(curve(found, "loss"))
    assert list(losses) == [*range(0, steps, 2), steps]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert curve(found, "validation/answer_loss").keys() == losses.keys()
    assert curve(found, "validation/kl_reference")[0] == pytest.approx(0, abs=1e-4)
    samples = found["samples"]
    assert samples.height == 3 * len(losses)
    assert set(samples["pair_id"]) <= outside
    row = samples.filter(pl.col("step") == steps).row(0, named=True)
    number = int(row["pair_id"])
    texts = (turn("user", f"Q{number}"), turn("assistant", f"C{number}"), turn("assistant", f"R{number}"))
    assert (row["prompt"], row["chosen"], row["rejected"]) == texts
    reference = read(data["reference_logprobs"], tables.REFERENCE_LOGPROBS)
    before = reference.filter(pl.col("pair_id") == row["pair_id"]).row(0, named=True)
    for side in ("chosen", "rejected"):
        expected = 0.1 * (row[f"logprob_{side}"] - before[f"{side}_logprob"])
        assert row[f"reward_{side}"] == pytest.approx(expected, abs=1e-5)


def test_the_best_weights_become_the_model_and_patience_ends_the_training(data, tmp_path):
    """The kept model gives the held-out pairs the log-probabilities that were measured at the best step.

    D24: the loss of supervised data chose, which DPO need not lower.
    """
    settings = {**VALIDATION, "keep": "best", "patience": 2}
    fast = {"learning_rate": 5e-3, "warmup_steps": 1}
    found = trained(data, tmp_path, epochs=20, optimizer=fast, validation=settings)
    losses = curve(found, "validation/loss")
    best = min((step for step in losses if step), key=losses.__getitem__)
    assert max(curve(found, "loss")) == max(losses) == best + 2 * 2 < 60
    again = read(logprobs(tmp_path / "models/1", data["pairs"], tmp_path), tables.REFERENCE_LOGPROBS)
    seen = found["samples"].filter(pl.col("step") == best).join(again, on="pair_id")
    assert seen.height == 3
    for side in ("chosen", "rejected"):
        assert seen[f"logprob_{side}"].to_list() == pytest.approx(seen[f"{side}_logprob"].to_list(), rel=1e-5)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["1"]
    identity = json.loads((tmp_path / "models/1/manifest.json").read_text())["digest"]
    write_manifest(tmp_path / "models/1")
    assert json.loads((tmp_path / "models/1/manifest.json").read_text())["digest"] == identity


def test_without_held_out_data_nothing_is_measured(data, tmp_path, monkeypatch):
    def measure(*_, **__):
        raise AssertionError("a forward pass without training")

    monkeypatch.setattr(train, "run_batch", measure)
    found = trained(data, tmp_path, validation={"every_steps": 1})
    assert not [name for name in found["metrics"]["metric"] if name.startswith("validation")]
    with pytest.raises(AssertionError, match="a forward pass without training"):
        trained(data, tmp_path, validation=VALIDATION)


def test_supervised_training_validates_on_held_out_examples(data, tmp_path):
    rows = [
        {"example_id": f"{number:02d}", "messages": [*turn("user", f"Hello {number}"), *turn("assistant", "world")],
         "answer_token_ids": None, "prompt_loss_weight": 0.0}
        for number in range(12)
    ]  # fmt: skip
    write(frame(tables.SFT_EXAMPLES, rows), tmp_path / "sft.parquet", tables.SFT_EXAMPLES, {})
    task = {"model": data["model"], "objective": "sft", "examples": [tmp_path / "sft.parquet"]}
    found = trained(task, tmp_path, epochs=4, validation={**VALIDATION, "fraction": 0.4})
    losses = curve(found, "validation/loss")
    assert losses[max(losses)] < losses[0] - 1
    assert losses == curve(found, "validation/sft_loss")
    assert set(found["ledger"]["kind"]) == {"sft"}
    sample = found["samples"].row(0, named=True)
    assert sample["chosen"] == turn("assistant", "world")
    assert sample["rejected"] is sample["reward_chosen"] is sample["logprob_rejected"] is None
    assert sample["logprob_chosen"] < 0


def test_a_fraction_that_holds_out_nothing_is_refused(data, tmp_path):
    with pytest.raises(StageError, match=r"validation\.fraction 1e-09 holds out none of 22"):
        trained(data, tmp_path, validation={"fraction": 1e-9})


# --- layouts ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (1, 2)], ids=["dp2", "pp2"])
def test_two_ranks_report_what_one_reports(tensor, pipeline, data, tmp_path):
    """All metrics of a step and of validation, the samples, the kept step, and the ledger."""
    settings = {"epochs": 2, "validation": {**VALIDATION, "keep": "best"}}
    one = trained(data, tmp_path / "one", **settings)
    layout = {"max_sequence_length": LENGTH, "tensor_parallel": tensor, "pipeline_parallel": pipeline}
    flags = cli.flags(arguments(data, tmp_path / "two", megatron=layout, **settings))
    command = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2 -m stages.train {flags}"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, shell=True, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    two = reports(tmp_path / "two")
    for found in (one, two):  # before the first update, the rewards and their order are rounding errors
        meaningless = pl.col("metric").str.ends_with("accuracy") & (pl.col("step") <= 1)
        found["metrics"] = found["metrics"].filter(~meaningless)
    assert two["ledger"].equals(one["ledger"])
    for name, keys in (("metrics", ["step", "metric"]), ("samples", ["step", "pair_id"])):
        assert two[name].select(keys).equals(one[name].select(keys))
        for column, dtype in one[name].schema.items():
            if dtype == pl.Float64:
                assert two[name][column].to_list() == pytest.approx(one[name][column].to_list(), rel=1e-4, abs=1e-4)
    assert two["speed"].select("step", "metric").equals(one["speed"].select("step", "metric"))
    assert (tmp_path / "two/models/1/manifest.json").exists()
