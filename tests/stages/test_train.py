"""Training as a whole, on a tiny model: its reports, validation, and the reference that it insists on."""

import json
import math
import shlex

import polars as pl
import pytest

from stages import tables, train
from stages.contracts import cli
from stages.contracts.artifacts import read, write
from stages.contracts.errors import StageError
from stages.contracts.ids import split_position
from stages.contracts.schema import frame
from stages.model_files.manifest import write_manifest
from tests.support.preference_task import LENGTH, arguments, curve, logprobs, reports, trained
from tests.support.ranks import succeed
from tests.support.records import turn, turns


def test_a_training_accounts_for_every_pair_and_reports_each_step(preferences, tmp_path):
    found = trained(
        preferences, tmp_path, loggers=["tensorboard"], megatron={"max_sequence_length": LENGTH, "peak_tflops": 1}
    )
    assert sorted(zip(*found["ledger"].select("pair_id", "kind", "reason", "detail"), strict=True)) == [
        ("03", "actor", "identical", "both members are the same tokens"),
        ("05", "actor", "overlong", f"{_length(preferences, '05')} of at most 60"),
    ]
    known = read(preferences["reference_logprobs"], tables.REFERENCE_LOGPROBS)["pair_id"].to_list()
    assert known == [f"{number:02d}" for number in range(24) if number not in (3, 5)]
    constants = {name: curve(found, name)[0] for name in ("examples", "held_out", "dropped_share", "bad_share")}
    assert constants == {"examples": 22, "held_out": 0, "dropped_share": 1 / 24, "bad_share": 1 / 24}
    assert curve(found, "loss").keys() == set(range(1, 7))
    assert curve(found, "loss")[1] == pytest.approx(math.log(2), abs=1e-5)
    assert curve(found, "tokens").keys() == set(range(1, 7))
    lengths = [_length(preferences, key, both=True) for key in known]
    assert sum(curve(found, "tokens").values()) == sum(lengths)
    readings = set(found["speed"]["metric"])
    assert readings == {"seconds", "tokens_per_second", "peak_memory", "mfu"}
    assert not readings & set(found["metrics"]["metric"])
    assert (found["speed"]["value"] > 0).all()
    assert found["samples"].is_empty()
    assert any((tmp_path / "train/tensorboard").glob("events*"))


def _length(preferences, key, both=False):
    rows = read(preferences["pairs"], tables.PAIRS).filter(pl.col("pair_id") == key)
    prompt, *members = (len(rows[f"{name}_token_ids"][0]) for name in ("prompt", "chosen", "rejected"))
    return 2 * prompt + sum(members) if both else prompt + max(members)


def test_the_same_training_gives_the_same_metrics_and_weights(preferences, tmp_path):
    first, second = (trained(preferences, tmp_path / name, epochs=2) for name in "ab")
    assert first["metrics"].equals(second["metrics"])
    weights = [(tmp_path / name / "models/1/model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_beta_follows_its_schedule(preferences, tmp_path):
    found = trained(preferences, tmp_path, iteration=2, beta=[0.1, 0.3])
    assert set(curve(found, "beta").values()) == {0.3}
    first = trained(preferences, tmp_path / "one", iteration=2, beta=0.1)
    # The first update is the same (Adam divides by the gradient's size): rewards of step 2 are three times as large.
    ratio = curve(found, "reward_chosen")[2] / curve(first, "reward_chosen")[2]
    assert ratio == pytest.approx(3, rel=1e-2)


def test_the_learning_rate_peaks_when_warm_up_ends_and_ends_at_the_floor(preferences, tmp_path, recwarn):
    rate = {"learning_rate": 1e-3, "min_learning_rate_ratio": 0.1, "warmup_steps": 3, "constant_steps": 1}
    found = curve(trained(preferences, tmp_path, optimizer=rate), "learning_rate")
    assert list(found.values()) == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 5.5e-4, 1e-4, 1e-4])
    assert [str(warning.message) for warning in recwarn if "lr_scheduler" in str(warning.message)] == []


def test_a_training_may_end_halfway_down_the_cosine(preferences, tmp_path):
    """The six steps of one epoch, of a schedule over two: warm-up ends with step 1, the cosine with step 12."""
    rate = {"learning_rate": 1e-3, "min_learning_rate_ratio": 0.1, "warmup_steps": 1, "schedule_epochs": 2}
    found = curve(trained(preferences, tmp_path, optimizer=rate), "learning_rate")
    half = [1e-4 + 4.5e-4 * (1 + math.cos(math.pi * step / 11)) for step in range(6)]
    assert list(found.values()) == pytest.approx(half)


def test_overlong_pairs_can_be_refused(preferences, tmp_path):
    with pytest.raises(StageError, match=r"pairs\.parquet: 05 has \d+ of at most 60 tokens"):
        trained(preferences, tmp_path, overlong="refuse")
    assert list(tmp_path.iterdir()) == []


# --- validation ---------------------------------------------------------------------------------------------------

VALIDATION = {"fraction": 0.3, "every_steps": 2, "samples": 3}


def test_held_out_pairs_are_measured_and_never_trained_on(preferences, tmp_path):
    """D24: validation of another batch size broke, and swapped the loss function of the training."""
    answers = tmp_path / "chat.jsonl"
    answers.write_text(json.dumps({"messages": turns("Hello", "world")}) + "\n")
    found = trained(preferences, tmp_path, validation={**VALIDATION, "answers": [answers]})
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
    texts = ([turn("user", f"Q{number}")], *([turn("assistant", f"{letter}{number}")] for letter in "CR"))
    assert (row["prompt"], row["chosen"], row["rejected"]) == texts
    reference = read(preferences["reference_logprobs"], tables.REFERENCE_LOGPROBS)
    before = reference.filter(pl.col("pair_id") == row["pair_id"]).row(0, named=True)
    for side in ("chosen", "rejected"):
        expected = 0.1 * (row[f"logprob_{side}"] - before[f"{side}_logprob"])
        assert row[f"reward_{side}"] == pytest.approx(expected, abs=1e-5)


def test_the_best_weights_become_the_model_and_patience_ends_the_training(preferences, tmp_path):
    """The kept model gives the held-out pairs the log-probabilities that were measured at the best step.

    D24: the loss of supervised preferences chose, which DPO need not lower.
    """
    settings = {**VALIDATION, "keep": "best", "patience": 2}
    fast = {"learning_rate": 5e-3, "warmup_steps": 1}
    found = trained(preferences, tmp_path, epochs=20, optimizer=fast, validation=settings)
    losses = curve(found, "validation/loss")
    best = min((step for step in losses if step), key=losses.__getitem__)
    assert max(curve(found, "loss")) == max(losses) == best + 2 * 2 < 60
    again = read(logprobs(tmp_path / "models/1", preferences["pairs"], tmp_path), tables.REFERENCE_LOGPROBS)
    seen = found["samples"].filter(pl.col("step") == best).join(again, on="pair_id")
    assert seen.height == 3
    for side in ("chosen", "rejected"):
        assert seen[f"logprob_{side}"].to_list() == pytest.approx(seen[f"{side}_logprob"].to_list(), rel=1e-5)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["1"]
    identity = json.loads((tmp_path / "models/1/manifest.json").read_text())["digest"]
    write_manifest(tmp_path / "models/1")
    assert json.loads((tmp_path / "models/1/manifest.json").read_text())["digest"] == identity


def test_without_held_out_data_nothing_is_measured(preferences, tmp_path, monkeypatch):
    def measure(*_, **__):
        raise AssertionError("a forward pass without training")

    monkeypatch.setattr(train, "run_batch", measure)
    found = trained(preferences, tmp_path, validation={"every_steps": 1})
    assert not [name for name in found["metrics"]["metric"] if name.startswith("validation")]
    with pytest.raises(AssertionError, match="a forward pass without training"):
        trained(preferences, tmp_path, validation=VALIDATION)


def test_supervised_training_validates_on_held_out_examples(preferences, tmp_path):
    rows = [
        {"example_id": f"{number:02d}", "messages": turns(f"Hello {number}", "world"),
         "answer_token_ids": None, "prompt_loss_weight": 0.0}
        for number in range(12)
    ]  # fmt: skip
    write(frame(tables.SFT_EXAMPLES, rows), tmp_path / "sft.parquet", tables.SFT_EXAMPLES, {})
    task = {"model": preferences["model"], "objective": "sft", "examples": [tmp_path / "sft.parquet"]}
    found = trained(task, tmp_path, epochs=4, validation={**VALIDATION, "fraction": 0.4})
    losses = curve(found, "validation/loss")
    assert losses[max(losses)] < losses[0] - 1
    assert losses == curve(found, "validation/sft_loss")
    assert set(found["ledger"]["kind"]) == {"sft"}
    sample = found["samples"].row(0, named=True)
    assert sample["chosen"] == [turn("assistant", "world")]
    assert sample["rejected"] is sample["reward_chosen"] is sample["logprob_rejected"] is None
    assert sample["logprob_chosen"] < 0


def test_a_fraction_that_holds_out_nothing_is_refused(preferences, tmp_path):
    with pytest.raises(StageError, match=r"validation\.fraction 1e-09 holds out none of 22"):
        trained(preferences, tmp_path, validation={"fraction": 1e-9})


# --- layouts ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (1, 2)], ids=["dp2", "pp2"])
def test_two_ranks_report_what_one_reports(tensor, pipeline, preferences, tmp_path):
    """All metrics of a step and of validation, the samples, the kept step, and the ledger."""
    settings = {"epochs": 2, "validation": {**VALIDATION, "keep": "best"}}
    one = trained(preferences, tmp_path / "one", **settings)
    layout = {"max_sequence_length": LENGTH, "tensor_parallel": tensor, "pipeline_parallel": pipeline}
    flags = cli.flags(arguments(preferences, tmp_path / "two", megatron=layout, **settings))
    succeed(cli.run, train.Args, train.main, shlex.split(flags), ranks=2)
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
