"""The plan of a run beside the run itself."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from stages import plan
from stages.inspection.parquet import described, files
from tests.support.workflow_run import ROOT, Run

pytestmark = pytest.mark.slow


def rows(path: Path) -> int:
    return sum(described(one).rows for one in files(path))


@pytest.fixture(scope="module")
def planned(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What is expected of the run by its own lengths and shares."""
    config = tmp_path_factory.mktemp("plan") / "config.yaml"
    config.write_text(yaml.safe_dump(finished.config), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        args = plan.parsed([str(config), "--like", str(finished.path)])
        return json.loads(json.dumps(plan.planned(args, plan.configured(args.configs))))


def stage(planned: dict[str, Any], iteration: int, rule: str) -> dict[str, Any]:
    (only,) = [one for one in planned["stages"] if (one["iteration"], one["rule"]) == (iteration, rule)]
    return only


@pytest.mark.parametrize(
    ("iteration", "rule", "place"),
    [
        (0, "eft_judge", "eft/judgements"),
        (1, "candidates", "iter-1/candidates"),
        (2, "candidates", "iter-2/candidates"),
        (1, "judge", "iter-1/judgements"),
        (2, "judge", "iter-2/judgements"),
    ],
)
def test_as_many_requests_as_rows(
    finished: Run, planned: dict[str, Any], iteration: int, rule: str, place: str
) -> None:
    count = rows(finished.path / place)
    assert stage(planned, iteration, rule)["requests"] == {"expected": count, "most": count}


def test_an_evaluation_answers_and_judges(finished: Run, planned: dict[str, Any]) -> None:
    folder = finished.path / "evaluation/1"
    asked = rows(folder / "evaluations.parquet") + rows(folder / "judgements.parquet")
    asked += rows(folder / "meta_evaluations.parquet")
    most = stage(planned, 1, "evaluate")["requests"]["most"]
    assert asked <= most <= asked + 2 * finished.config["evaluate"]["meta_comparisons"]


def test_comparisons_and_pairs_are_no_more_than_planned(finished: Run, planned: dict[str, Any]) -> None:
    asked = rows(finished.path / "iter-1/meta_judge_prompts")
    compared = stage(planned, 1, "meta_judge")["requests"]
    assert compared["expected"] == pytest.approx(asked)
    assert asked <= compared["most"]
    trained = [stage(planned, iteration, "train")["rows"] for iteration in (1, 2)]
    there = [rows(finished.path / f"iter-{iteration}/pairs.parquet") for iteration in (1, 2)]
    assert all(count <= one["most"] for count, one in zip(there, trained, strict=True))
    assert sum(one["expected"] for one in trained) == pytest.approx(sum(there), rel=0.05)


def test_tokens_are_about_those_of_the_run(finished: Run, planned: dict[str, Any]) -> None:
    for rule, place in (("candidates", "candidates"), ("judge", "judgements")):
        generated = [stage(planned, iteration, rule)["generated_tokens"] for iteration in (1, 2)]
        made = [path for iteration in (1, 2) for path in files(finished.path / f"iter-{iteration}/{place}")]
        tokens = sum(pl.read_parquet(path, columns=["tokens"])["tokens"].sum() for path in made)
        assert sum(one["expected"] for one in generated) == pytest.approx(tokens, rel=0.1)
        assert tokens <= sum(one["most"] for one in generated)


def test_disk_is_about_that_of_the_run(finished: Run, planned: dict[str, Any]) -> None:
    weights = [finished.path / f"models/{model}/model.safetensors" for model in (0, 1, 2)]
    assert sum(path.stat().st_size for path in weights) == pytest.approx(planned["disk"]["models"], rel=0.05)
    assert planned["hours"]["expected"] > 0
    assert planned["unknown"] == []
