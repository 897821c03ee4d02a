"""What is refused before any job runs, in one sentence that says what to do."""

from pathlib import Path

import pytest

from stages.config.whole import Config, load
from stages.contracts.errors import StageError
from stages.planning.checks import check_metric_loggers, check_models_are_there, check_paths
from stages.training import loggers


def config(model: Path | str = "m", **sections: dict) -> Config:
    run = {"model": model, **sections.pop("run", {})}
    return load({"run": run, "ingest": {"sources": ["a.jsonl"]}, "evaluate": {"prompts": "b.jsonl"}, **sections})


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"run": {"results": "my {runs}"}}, "run.results: Snakemake reads braces and line breaks in 'my {runs}'"),
        ({"ingest": {"sources": ["a", "b\nc"]}}, r"ingest.sources: Snakemake reads braces and line breaks in 'b\\nc'"),
        (
            {"judge": {"template": "-a.jinja"}},
            "judge.template: '-a.jinja' would be taken for a flag; give",
        ),
    ],
)
def test_a_path_that_is_read_as_something_else_is_refused(sections: dict, message: str) -> None:
    with pytest.raises(StageError, match=message):
        check_paths(config(**sections))


def test_other_odd_paths_are_paths() -> None:
    check_paths(config(run={"results": '/a b/it\'s "$(x)" [*];&'}, judge={"template": "/-a.jinja"}))


def test_a_model_of_a_hub_is_to_be_downloaded_first(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"run\.model: org/name: no such directory.* type `hf download org/name"):
        check_models_are_there(config("org/name"))
    other = {"judge": {"model": "org/judge"}, "meta_judge": {"enabled": False}}
    with pytest.raises(StageError, match=r"the model of judge: org/judge: no such directory"):
        check_models_are_there(config(tmp_path, **other))
    check_models_are_there(config(tmp_path))


def test_a_logger_that_is_not_installed_is_missed_where_training_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loggers.PACKAGES, "mlflow", ("no_such_package",))
    logged = {"train": {"loggers": ["mlflow"]}}
    with pytest.raises(StageError, match=r"`mlflow` needs the Python package no_such_package: install the extra"):
        check_metric_loggers(config(**logged))
    check_metric_loggers(config(**logged, environments={"train": {"python": "/elsewhere/bin/python"}}))
