"""A run at a glance: its tables and models, and exactly what is missing."""

import shutil
from pathlib import Path

import pytest

from stages import tables
from stages.contracts.artifacts import write
from stages.contracts.errors import StageError
from stages.contracts.schema import frame
from stages.inspection.overview import overview
from stages.inspection.run_folder import opened

TRAINED = [f"train/{name}.parquet" for name in ("metrics", "speed", "ledger", "samples")]


def test_what_there_is(inspected: Path) -> None:
    found = overview(opened(inspected))
    assert (found["kind"], found["iterations"]) == ("run", [1, 2, 3])
    assert found["models"] == [
        {"model": name, "digest": f"digest-of-{name}", "evaluated": True} for name in ("base", "0", "1")
    ]
    places = {one["place"]: one for one in found["tables"]}
    assert places["prompts/pool.parquet"] == {
        "place": "prompts/pool.parquet", "table": "prompts", "files": 1, "rows": 120, "problem": None,
    }  # fmt: skip
    assert places["iter-2/pairs.parquet"]["table"] == "pairs"
    assert places["eft/votes.parquet"]["rows"] == 60
    assert "not a readable Parquet file" in places["iter-3/battles.parquet"]["problem"]
    quality = [(row["model"], row["value"]) for row in found["headline"] if row["metric"] == "quality"]
    assert quality == [(-1, 1.5), (0, 2.0), (1, 2.5), (2, 3.0), (3, 3.5)]


def test_what_is_missing(inspected: Path) -> None:
    missing = [(one["place"], one["stage"]) for one in overview(opened(inspected))["missing"]]
    of_two = {place.removeprefix("iter-2/"): stage for place, stage in missing if place.startswith("iter-2/")}
    assert of_two == {
        "creations": "create",
        "candidate_prompts": "candidates",
        "judge_prompts": "judge",
        "meta_judge_prompts": "meta_judge",
        "reference_logprobs.parquet": "reference_logprobs",
        **{name: "train" for name in TRAINED if name not in ("train/metrics.parquet", "train/speed.parquet")},
    }
    assert [place for place, _ in missing if place.startswith("models/")] == ["models/2", "models/3"]
    assert ("prompts/held_out.parquet", "ingest") not in missing, "not every run has its own"
    assert ("iter-1/verifications", "verify") not in missing


def test_missing_shards_are_named(inspected: Path, tmp_path: Path) -> None:
    for name, table in (("candidates", tables.CANDIDATES), ("judgements", tables.JUDGEMENTS)):
        for shard in range(3 if name == "candidates" else 2):
            path = tmp_path / f"run/iter-1/{name}/{shard:03d}.parquet"
            write(frame(table, []), path, table, {"settings": {"shards": 3}})
    found = overview(opened(tmp_path / "run"))["missing"]
    assert {"place": "iter-1/judgements/002.parquet", "stage": "judge"} in found
    assert not any(one["place"].startswith("iter-1/candidates") for one in found)
    assert {"place": "models/0", "stage": "base_model"} in found


def test_an_iteration_alone(inspected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = opened(inspected / "iter-2")
    assert (run.path, run.iterations) == (inspected, (2,))
    places = {one["place"].split("/")[0] for one in overview(run)["tables"]}
    assert places == {"prompts", "eft", "iter-2", "evaluation"}
    monkeypatch.chdir(inspected / "iter-2")
    assert opened(Path()).path.resolve() == inspected.resolve()


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="not the folder of a run: it has neither iter-1/ nor prompts/pool"):
        opened(tmp_path)
    with pytest.raises(StageError, match="nowhere: no such file or folder"):
        opened(tmp_path / "nowhere")


def test_a_run_that_has_just_begun(inspected: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts").mkdir()
    shutil.copy(inspected / "prompts/pool.parquet", tmp_path / "prompts/pool.parquet")
    found = overview(opened(tmp_path))
    assert (found["iterations"], found["models"], found["headline"]) == ([], [], [])
    assert [one["place"] for one in found["missing"]] == ["prompts/ingest_ledger.parquet", "models/0"]
