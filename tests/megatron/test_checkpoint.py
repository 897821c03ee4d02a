"""Training that is killed, told to stop, short of disk, or fed bad numbers."""

import json
import os
import pickle
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.planner import WriteItemType

from stages import train
from stages.config import MegatronSettings
from stages.contracts.errors import StageError
from stages.megatron import training_state
from stages.megatron.checkpoint import Checkpoints
from stages.megatron.parallel import world
from stages.megatron.skipped_steps import SkippedSteps
from stages.model_files.config import read_config
from stages.training.objectives import Objective, preference
from tests.probes import checkpoints as probe
from tests.support.ranks import succeed
from tests.support.small_trainer import STEPS, new_trainer, pairs, parameters, resumes_exactly, take_steps

OPTIMIZERS = {"plain": {}, "distributed": {"distributed_optimizer": True}}


@pytest.fixture
def rank(tiny_model_dir):
    with world(MegatronSettings(), read_config(tiny_model_dir)) as one:
        yield one


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_training_is_exact(dtype, tiny_model_dir, tmp_path, rank):
    """Plain optimizers; with fp32 masters for bf16 weights. On several ranks: test_layouts.py.

    D18: generators had another state after a restart.
    """
    assert resumes_exactly(
        lambda: new_trainer(tiny_model_dir, rank, dtype=dtype), Checkpoints(tmp_path, "plan", 1, 2, rank)
    )


@pytest.mark.slow
def test_any_layout_goes_on_from_any_other(tiny_model_dir, tmp_path):
    """1 rank -> 2 replicas -> 2 tensor ranks -> 2 pipeline stages -> 1 rank: the losses of an undisturbed training."""
    with world(MegatronSettings(), read_config(tiny_model_dir)) as rank:
        undisturbed = take_steps(new_trainer(tiny_model_dir, rank), STEPS)
        for optimizer in ("plain", "distributed"):
            trainer = new_trainer(tiny_model_dir, rank, **OPTIMIZERS[optimizer])
            take_steps(trainer, 2)
            Checkpoints(tmp_path / optimizer, "plan", 1, 2, rank).save(2, trainer, {})
    succeed(probe.layouts, tiny_model_dir, tmp_path, ranks=2)
    found = json.loads((tmp_path / "found.json").read_text())
    with world(MegatronSettings(), read_config(tiny_model_dir)) as rank:
        for optimizer in ("plain", "distributed"):
            trainer = new_trainer(tiny_model_dir, rank, **OPTIMIZERS[optimizer])
            assert Checkpoints(tmp_path / optimizer, "plan", 1, 2, rank).resume(trainer)[0] == 8
            steps = found[optimizer] + take_steps(trainer, 2)
            for step, expected in zip(steps, undisturbed[2:], strict=True):
                assert step == pytest.approx(expected, rel=1e-5, abs=1e-5)
    # The other rank's full disk is told on both, the checkpoint before is whole.
    assert found["full disk"]["left"] == ["step-00000001"]
    assert found["full disk"]["usable"] == 1
    for message in found["full disk"]["messages"]:
        assert "step-00000002: cannot save the checkpoint (rank 1: " in message
        assert "File too large" in message


@pytest.fixture(scope="module")
def three_steps(tiny_model_dir, tmp_path_factory):
    """Checkpoints of steps 1, 2 and 3, of which the last two are kept."""
    folder = tmp_path_factory.mktemp("three_steps")
    with world(MegatronSettings(), read_config(tiny_model_dir)) as rank:
        trainer, checkpoints = new_trainer(tiny_model_dir, rank), Checkpoints(folder, "plan", 1, 2, rank)
        for step in (1, 2, 3):
            take_steps(trainer, 1)
            checkpoints.save(step, trainer, [{"step": step, "metric": "loss", "value": float("nan")}])
    return folder


@pytest.fixture
def saved(three_steps, tiny_model_dir, tmp_path, rank):
    """Those checkpoints, and a trainer after its first step."""
    shutil.copytree(three_steps, tmp_path / "all")
    trainer = new_trainer(tiny_model_dir, rank)
    take_steps(trainer, 1)
    return trainer, Checkpoints(tmp_path / "all", "plan", 1, 2, rank)


def test_the_last_checkpoints_are_kept(saved):
    _, checkpoints = saved
    assert names(checkpoints.directory) == ["step-00000002", "step-00000003"]
    checkpoints.delete()
    assert not checkpoints.directory.exists()


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("__0_0.distcp", lambda path: path.write_bytes(path.read_bytes()[:-1])),
        ("__0_1.distcp", flip_a_byte),
        ("common.pt", Path.unlink),
        (".metadata", lambda path: path.write_bytes(b"")),
        ("training.json", lambda path: path.write_text("{")),
        ("training.json", lambda path: path.write_text(path.read_text().replace('"step": 3', '"step": 1'))),
        ("training.json", Path.unlink),
    ],
)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(name, damage, saved, capsys):
    trainer, checkpoints = saved
    damage(checkpoints.directory / "step-00000003" / name)
    assert checkpoints.resume(trainer)[0] == 2
    assert "step-00000003: " in capsys.readouterr().err
    assert trainer.schedules[0].last_epoch == 2
    # Saved again, it is whole.
    take_steps(trainer, 1)
    checkpoints.save(3, trainer, {})
    assert checkpoints.resume(trainer)[0] == 3
    assert names(checkpoints.directory) == ["step-00000002", "step-00000003"]


def test_a_checkpoint_of_another_plan_is_not_used(saved, tiny_model_dir, rank, capsys):
    _, checkpoints = saved
    other = Checkpoints(checkpoints.directory, "other plan", 1, 2, rank)
    trainer = new_trainer(tiny_model_dir, rank)
    before = parameters(trainer)
    assert other.resume(trainer) == (0, {})
    assert capsys.readouterr().err.count("made with other pairs, settings, code or model; not used") == 2
    assert all(torch.equal(one, now) for one, now in zip(before, parameters(trainer), strict=True))
    take_steps(trainer, 1)
    other.save(1, trainer, {})
    assert names(checkpoints.directory) == ["step-00000001"]


def test_what_decides_a_step_is_part_of_the_plan(tiny_model_dir, tmp_path):
    files = {"output": tmp_path / "m/manifest.json", "metrics": tmp_path / "t.parquet"}
    args = train.Args(model=tiny_model_dir, **files)
    steps, inputs = [pairs()], ["model", "data"]
    plan = train._plan(args, steps, inputs)
    same = [
        args.model_copy(update={"megatron": MegatronSettings(processes=2, tensor_parallel=2)}),
        args.model_copy(update={"checkpoint_every_steps": 7, "keep_checkpoints": 9, "metrics": tmp_path / "u.parquet"}),
    ]
    assert [train._plan(other, steps, inputs) for other in same] == [plan, plan]
    changed = [
        train._plan(args.model_copy(update={"beta": 0.2}), steps, inputs),
        train._plan(args.model_copy(update={"seed": 1}), steps, inputs),
        train._plan(args.model_copy(update={"megatron": MegatronSettings(dtype="bfloat16")}), steps, inputs),
        train._plan(args, [pairs()[::-1]], inputs),
        train._plan(args, steps, ["model", "other data"]),
    ]
    assert len({plan, *changed}) == 6


def test_metric_rows_come_back_as_they_were(saved):
    trainer, checkpoints = saved
    rows = [{"step": 1, "metric": "loss", "value": 0.1 + 0.2}, {"step": 1, "metric": "skipped", "value": 1.0}]
    checkpoints.save(4, trainer, {"rows": rows})
    assert checkpoints.resume(trainer) == (4, {"rows": rows})


@pytest.mark.parametrize("place", ["torch.save", "os.replace", "megatron writer"])
def test_a_full_disk_leaves_the_checkpoint_before(place, saved, monkeypatch):
    trainer, checkpoints = saved

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    if place == "megatron writer":  # in a forked process, which this reaches too
        monkeypatch.setattr("megatron.core.dist_checkpointing.strategies.filesystem_async._write_item", full)
    else:
        monkeypatch.setattr(place, full)
    with pytest.raises(StageError, match=r"step-00000004: cannot save the checkpoint \(.*No space left on device"):
        checkpoints.save(4, trainer, {})
    monkeypatch.undo()
    assert names(checkpoints.directory) == ["step-00000002", "step-00000003"]
    assert checkpoints.resume(trainer)[0] == 3


def test_the_index_may_only_hold_what_an_index_holds(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("true",)

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(StageError, match=r"\.metadata: posix\.system does not belong into the index"):
        training_state._check_index(tmp_path / ".metadata")


@pytest.mark.parametrize(("name", "fits"), [("TENSOR", True), ("mro", False), ("__class__", False)])
def test_of_attributes_the_index_may_only_hold_members_of_enumerations(tmp_path, name, fits):
    """Before 3.11.4, Python pickles a member as an attribute of its class."""

    class Attribute:
        def __reduce__(self):
            return getattr, (WriteItemType, name)

    (tmp_path / ".metadata").write_bytes(pickle.dumps(Attribute()))
    if fits:
        training_state._check_index(tmp_path / ".metadata")
    else:
        with pytest.raises(StageError, match=f"attribute '{name}' does not belong into the index"):
            training_state._check_index(tmp_path / ".metadata")


def test_told_to_stop_it_saves_first(saved):
    trainer, checkpoints = saved
    with checkpoints:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StageError, match="stopped by SIGTERM after step 5; rerun to go on"):
            checkpoints.after_step(5, trainer, {})
    assert names(checkpoints.directory) == ["step-00000003", "step-00000005"]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def broken_loss(kind):
    """DPO whose loss is NaN, or whose gradient alone is infinite."""
    inner = preference(0.1, 0.0)

    def loss(row_logprobs, batch):
        value, sums = inner.loss(row_logprobs, batch)
        if kind == "loss":
            return value * float("nan"), {**sums, "loss": sums["loss"] * float("nan")}
        nothing = (row_logprobs - row_logprobs.detach()).sum()
        return value + nothing.sqrt(), sums

    return Objective(inner.normaliser, loss)


def moments(trainer):
    inner = [part.optimizer.state for part in trainer.optimizer.chained_optimizers]
    return [value.clone() for states in inner for state in states.values() for value in state.values()]


@pytest.mark.parametrize("optimizer", ["plain", "distributed"])
@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_bad_step_changes_nothing_but_the_schedule(kind, optimizer, tiny_model_dir, rank):
    trainer = new_trainer(tiny_model_dir, rank, **OPTIMIZERS[optimizer])
    first = take_steps(trainer, 1)[0]
    weights = parameters(trainer)
    before = moments(trainer)
    values = trainer.step(pairs(), broken_loss(kind))
    assert (first["skipped"], values["skipped"]) == (0.0, 1.0)
    assert values["learning_rate"] < first["learning_rate"]
    assert all(torch.equal(one, now) for one, now in zip(weights, parameters(trainer), strict=True))
    assert all(torch.equal(one, now) for one, now in zip(before, moments(trainer), strict=True))
    good = take_steps(trainer, 1)[0]
    assert good["skipped"] == 0.0
    assert good["loss"] < first["loss"]


@pytest.mark.parametrize("optimizer", ["plain", "distributed"])
def test_before_the_first_update_there_is_nothing_to_save(optimizer, tiny_model_dir, tmp_path, rank):
    trainer = new_trainer(tiny_model_dir, rank, **OPTIMIZERS[optimizer])
    checkpoints = Checkpoints(tmp_path, "plan", 1, 1, rank)
    trainer.step(pairs(), broken_loss("loss"))
    checkpoints.save(1, trainer, {})
    assert names(tmp_path) == []
    take_steps(trainer, 1)
    checkpoints.save(2, trainer, {})
    assert names(tmp_path) == ["step-00000002"]


def test_bad_steps_in_a_row_end_the_training(rank, capsys):
    batch = [replace(example, key=f"p{i}") for i, example in enumerate([*pairs(), *pairs()])]
    good, bad = {"loss": 0.5, "skipped": 0.0}, {"loss": float("nan"), "skipped": 1.0}
    rows = [{"step": step, "metric": "skipped", "value": value} for step, value in enumerate([1.0, 0.0, 1.0], start=1)]
    resumed = SkippedSteps(3, rows)
    resumed.note(4, bad, batch, rank)
    assert "warning: step 4 is skipped: loss not finite; trained on p0, p1, p2" in capsys.readouterr().err
    with pytest.raises(StageError, match=r"3 steps in a row up to step 5 are not finite \(loss\).* and 6 more"):
        resumed.note(5, bad, batch, rank)
    fresh = SkippedSteps(2)
    for step, values in enumerate([bad, good, bad, good], start=1):
        fresh.note(step, values, batch, rank)


def test_recomputed_activations_give_the_same_steps(tiny_model_dir, rank):
    """Megatron's recomputation saves and restores a GPU's random generator, which a CPU does not have."""
    plain, recomputing = (new_trainer(tiny_model_dir, rank, recompute=recompute) for recompute in (False, True))
    expected, waiting = take_steps(plain, 2), len(torch.cuda._queued_calls)
    for step, other in zip(take_steps(recomputing, 2), expected, strict=True):
        assert step == pytest.approx(other, rel=1e-6)
    assert len(torch.cuda._queued_calls) == waiting  # PyTorch would keep what it cannot do for a GPU to come
