"""What goes into each logger comes out of its files."""

import sys

import polars as pl
import pytest

from stages.contracts.errors import StageError
from stages.training import loggers as metric_sinks
from stages.training.loggers import MetricSinks, check_loggers

SAMPLES = pl.DataFrame({"pair_id": ["p"], "chosen": ["user: a|b\nassistant: c"], "reward_chosen": [0.25]})
MARKDOWN = "| pair_id | chosen | reward_chosen |\n| - | - | - |\n| p | user: a\\|b<br>assistant: c | 0.25 |"


@pytest.fixture(autouse=True)
def _local(monkeypatch):
    for name in ("WANDB_MODE", "WANDB_PROJECT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def log(name, folder, first_step=0):
    settings = {"beta": 0.1, "optimizer": {"learning_rate": 2e-6}, "loggers": [name]}
    with MetricSinks([name], folder, settings, first_step) as sinks:
        for step, loss in ((1, 0.75), (2, 0.5)):
            sinks.metrics({"loss": loss, "validation/loss": 2 * loss}, step)
        sinks.table("validation/samples", SAMPLES, 2)


def tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def test_tensorboard(tmp_path):
    log("tensorboard", tmp_path)
    events = tensorboard(tmp_path)
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.75), (2, 0.5)]
    assert [event.value for event in events.Scalars("validation/loss")] == [1.5, 1.0]
    (text,) = events.Tensors("validation/samples/text_summary")
    assert text.tensor_proto.string_val[0].decode() == MARKDOWN
    assert "learning_rate: 2.0e-06" in (tmp_path / "tensorboard/hparams.yaml").read_text()


def test_a_second_training_replaces_the_curves_of_the_first_from_its_first_step_on(tmp_path):
    log("tensorboard", tmp_path)
    log("tensorboard", tmp_path, first_step=2)
    assert [event.step for event in tensorboard(tmp_path).Scalars("loss")] == [1, 1, 2]
    log("tensorboard", tmp_path)
    assert [event.step for event in tensorboard(tmp_path).Scalars("loss")] == [1, 2]


def test_mlflow(tmp_path):
    from mlflow.tracking import MlflowClient

    log("mlflow", tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "meta-rewarding"]
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "validation/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.5), (2, 1.0)]
    assert run.data.params["beta"] == "0.1"
    assert run.data.params["optimizer/learning_rate"] == "2e-06"
    assert run.info.status == "FINISHED"
    (table,) = tmp_path.glob("mlflow/*/artifacts/validation/samples/2.md")
    assert table.read_text() == MARKDOWN


def test_wandb_offline(tmp_path):
    log("wandb", tmp_path)
    (record,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = record.read_bytes()
    assert b"validation/loss" in content
    assert b"learning_rate" in content
    (table,) = tmp_path.glob("wandb/offline-run-*/files/media/table/validation/samples_*.table.json")
    assert "assistant: c" in table.read_text()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_a_failed_training_is_told(name, tmp_path):
    sinks = MetricSinks([name], tmp_path, {"beta": 0.1})
    sinks.metrics({"loss": 1.0}, 1)
    sinks.__exit__(RuntimeError, RuntimeError("broken"), None)
    if name == "mlflow":
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
        (run,) = client.search_runs([client.get_experiment_by_name("meta-rewarding").experiment_id])
        assert run.info.status == "FAILED"
    else:
        assert [event.value for event in tensorboard(tmp_path).Scalars("loss")] == [1.0]


def test_no_logger_writes_nothing(tmp_path):
    with MetricSinks([], tmp_path, {"beta": 0.1}) as sinks:
        sinks.metrics({"loss": 1.0}, 1)
        sinks.table("validation/samples", SAMPLES, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    check_loggers(["tensorboard", "wandb", "mlflow"])
    found = metric_sinks.find_spec
    monkeypatch.setattr(metric_sinks, "find_spec", lambda name: None if name == "alembic" else found(name))
    check_loggers(["tensorboard", "wandb"])
    with pytest.raises(StageError, match=r"`mlflow` needs the Python package alembic: install the extra `loggers`"):
        check_loggers(["tensorboard", "mlflow"])


def test_loggers_cost_nothing_before_they_are_used():
    """Checked in a fresh interpreter: importing the module imports none of them."""
    import subprocess

    code = "import sys, stages.training.loggers; print({'lightning', 'wandb', 'mlflow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
