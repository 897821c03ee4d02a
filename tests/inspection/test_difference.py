"""What differs between runs and iterations: nothing between a run and itself, and exactly what was changed."""

import shutil
from pathlib import Path

import polars as pl
import pytest

from stages import tables
from stages.contracts.artifacts import provenance, read, write
from stages.contracts.errors import StageError
from stages.inspection.difference import difference
from stages.inspection.run_folder import opened
from tests.support import synthetic_rules as made


@pytest.fixture(scope="module")
def other(inspected: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, but for iteration 1: one actor pair lost for its margin, one with another rejected text, scores half a
    point higher, another scale, and a better model 1."""
    run = tmp_path_factory.mktemp("other") / "run"
    shutil.copytree(inspected, run)
    folder = run / "iter-1"
    pairs = read(folder / "pairs.parquet", tables.PAIRS).with_row_index("n")
    actor = pairs.filter(kind="actor")
    lost, changed = actor[0], actor[1]
    text = pl.lit([{"role": "assistant", "content": "another"}], dtype=pairs.schema["rejected"])
    pairs = pairs.with_columns(rejected=pl.when(pl.col("n") == changed["n"][0]).then(text).otherwise("rejected"))
    write(pairs.filter(pl.col("n") != lost["n"][0]), folder / "pairs.parquet", tables.PAIRS, {})
    row = {"kind": "actor", "prompt_id": lost["prompt_id"][0], "pair": 0, "candidate_id": None, "reason": "margin"}
    ledger = read(folder / "pair_ledger.parquet", tables.PAIR_LEDGER)
    ledger = pl.concat([ledger, pl.DataFrame([{**row, "detail": "."}], schema=ledger.schema)])
    write(ledger, folder / "pair_ledger.parquet", tables.PAIR_LEDGER, {})
    scores = read(folder / "scores.parquet", tables.SCORES).with_columns(pl.col("score") + 0.5)
    write(scores, folder / "scores.parquet", tables.SCORES, {})
    votes, path = read(folder / "votes.parquet", tables.VOTES), folder / "votes.parquet"
    write(votes, path, tables.VOTES, provenance(path) | {"settings": {"low": 1.0, "high": 5.0}})
    path = run / "evaluation/1/summary.parquet"
    better = pl.when(pl.col("metric") == "quality").then(pl.col("value") + 1).otherwise("value")
    write(read(path, tables.SUMMARY).with_columns(value=better), path, tables.SUMMARY, provenance(path))
    return run


def numbers(document: dict, index: int = 0) -> dict[str, tuple]:
    rows = document["iterations"][index]["numbers"]
    return {row["name"]: (row["a"], row["b"], row["difference"]) for row in rows}


def test_a_run_does_not_differ_from_itself(inspected: Path) -> None:
    found = difference(opened(inspected), opened(inspected))
    assert found["settings"] == []
    assert len(found["problems"]) == 3, "what the made-up run has left over cannot be read"
    assert {row["difference"] for row in found["headline"]} == {0}
    assert [(one["a"], one["b"]) for one in found["iterations"]] == [(1, 1), (2, 2), (3, 3)]
    for one in found["iterations"]:
        assert {row["difference"] for row in one["numbers"]} <= {0, None}
        assert (one["pairs"]["changed"], one["pairs"]["gained"], one["pairs"]["lost"]) == (0, [], [])
        assert (one["scores"]["prompts"], one["scores"]["mean"]) == (40, 0)


def test_what_was_changed_is_found(inspected: Path, other: Path) -> None:
    found = difference(opened(inspected), opened(other))
    before, after = (read(run / "iter-1/pairs.parquet", tables.PAIRS) for run in (inspected, other))
    (lost,) = before.join(after, on="pair_id", how="anti").select("kind", "prompt_id").to_dicts()
    one = found["iterations"][0]
    assert one["pairs"]["gained"] == []
    prompts = before.select("kind", "prompt_id").unique().height
    still = after.filter(prompt_id=lost["prompt_id"], kind="actor").height
    assert still == 0
    assert one["pairs"]["lost"] == [{**lost, "reason": "margin"}]
    assert (one["pairs"]["same"], one["pairs"]["changed"]) == (prompts - 2, 1)
    assert one["scores"] == {"prompts": 40, "higher": 40, "lower": 0, "mean": pytest.approx(0.5)}
    assert numbers(found)["score"][2] == pytest.approx(0.5)
    assert numbers(found)["actor_pairs"][2] == -1
    assert numbers(found)["judge_pairs"][2] == 0
    changed = [row for row in found["headline"] if row["difference"]]
    assert [(row["model_a"], row["metric"], row["difference"]) for row in changed] == [("1", "quality", 1.0)]
    assert found["settings"] == [{"stage": "score", "setting": "low", "a": 0.0, "b": 1.0, "iterations": [1]}]
    back = difference(opened(other), opened(inspected))["iterations"][0]["pairs"]
    assert (back["gained"], back["lost"]) == ([{**lost, "reason": "margin"}], [])


def test_two_iterations(inspected: Path) -> None:
    found = difference(opened(inspected / "iter-1"), opened(inspected / "iter-2"))
    (one,) = found["iterations"]
    assert (one["a"], one["b"], one["scores"]["prompts"]) == (1, 2, 0)
    assert {row["reason"] for row in one["pairs"]["gained"]} == {"not_drawn"}
    assert numbers(found)["loss"] == (pytest.approx(0.593), pytest.approx(0.493), pytest.approx(-0.1))
    assert numbers(found)["left_out"] == (1, None, None)
    assert numbers(found)["checks_passed"] == (0.0, None, None)
    quality = next(row for row in found["headline"] if row["metric"] == "quality")
    assert quality == {"model_a": "1", "model_b": "2", "metric": "quality", "a": 2.5, "b": 3.0, "difference": 0.5}


def test_numbers_follow_the_rules_of_the_run(inspected: Path) -> None:
    found = numbers(difference(opened(inspected), opened(inspected)), 1)
    votes = [made.vote_score(2, n, s, v) for n in range(40) for s in range(4) for v in range(3)]
    assert found["parsed_share"][0] == pytest.approx(1 - votes.count(None) / len(votes))
    assert (found["prompts"][0], found["candidates"][0], found["candidate_tokens"][0]) == (40, 160, 11.5)
    assert found["judgement_tokens"][0] == 20
    assert found["cut_share"][0] == 0


def test_paths_of_the_run_are_no_settings(tmp_path: Path) -> None:
    for name, votes in (("a", 2), ("b", 3)):
        place = "iter-1/judgements/000.parquet"
        settings = {
            "output": f"/once/{name}/{place}", "prompts": f"/once/{name}/iter-1/prompts.parquet", "iteration": 1,
            "votes": votes, "template": "prompts/judge.jinja", "sampling": {"temperature": votes / 10},
        }  # fmt: skip
        origin = {"stage": "judge", "settings": settings, "template": f"digest-{name}"}
        write(read([], tables.JUDGEMENTS), tmp_path / name / place, tables.JUDGEMENTS, origin)
    found = difference(opened(tmp_path / "a"), opened(tmp_path / "b"))["settings"]
    assert [(row["stage"], row["setting"], row["a"], row["b"], row["iterations"]) for row in found] == [
        ("judge", "sampling.temperature", 0.2, 0.3, [1]),
        ("judge", "votes", 2, 3, [1]),
        ("judge", "template_digest", "digest-a", "digest-b", [1]),
    ]


def test_runs_without_a_common_iteration_are_refused(inspected: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts").symlink_to(inspected / "prompts")
    with pytest.raises(StageError, match="no iteration that both have"):
        difference(opened(inspected), opened(tmp_path))


def test_settings_of_comparisons_count(inspected: Path, tmp_path: Path) -> None:
    for name, others, tokens in (("a", (0, 1), 50), ("b", (0,), 60)):
        shutil.copytree(inspected, tmp_path / name)
        for other in others:
            place = tmp_path / name / f"evaluation/2/against-{other}/win_rates.parquet"
            settings = {"number": 2, "other": str(other), "sampling": {"max_tokens": tokens}}
            write(read([], tables.WIN_RATES), place, tables.WIN_RATES, {"stage": "compare", "settings": settings})
    assert difference(opened(tmp_path / "a"), opened(tmp_path / "b"))["settings"] == [
        {"stage": "compare", "setting": "sampling.max_tokens", "a": 50, "b": 60, "iterations": []}
    ]
