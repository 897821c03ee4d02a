"""The whole loop: one short real run of the demo's workflow."""

from zipfile import ZipFile

import polars as pl
import pytest

from stages import tables
from stages.contracts.artifacts import read
from tests.support.workflow_run import Run

pytestmark = pytest.mark.slow


EFT_OUTCOMES = {"examples": tables.SFT_EXAMPLES, "ledger": tables.EFT_LEDGER}


def metric(run: Run, model: int | str, name: str) -> float:
    summary = read(run.path / f"evaluation/{model}/summary.parquet", tables.SUMMARY)
    return summary.filter(pl.col("metric") == name)["value"].item()


def test_the_model_gets_better_by_its_own_judgement(finished):
    assert metric(finished, 2, "quality") > metric(finished, 0, "quality") + 0.4
    assert metric(finished, 2, "quality_greedy") > metric(finished, 0, "quality_greedy") + 1.0


def test_judge_and_parse_rate_hold(finished):
    votes = finished.table("iter-1/votes.parquet", tables.VOTES)
    assert (votes["parse_status"] == "ok").mean() >= 0.98
    assert metric(finished, 0, "judge_accuracy") >= 0.85


def test_every_row_is_accounted_for_by_key(finished):
    prompts = finished.table("iter-1/prompts.parquet", tables.PROMPTS)
    candidates = finished.table("iter-1/candidates/*.parquet", tables.CANDIDATES)
    judgements = finished.table("iter-1/judgements/*.parquet", tables.JUDGEMENTS)
    pairs = finished.table("iter-1/pairs.parquet", tables.PAIRS)
    ledger = finished.table("iter-1/pair_ledger.parquet", tables.PAIR_LEDGER)
    assert prompts.height == 80
    assert candidates.height == 80 * 4
    assert judgements.height == candidates.filter(pl.col("text") != "").height * 3
    for kind in ("actor", "judge"):
        chosen, dropped = (frame.filter(pl.col("kind") == kind)["prompt_id"] for frame in (pairs, ledger))
        assert sorted([*chosen, *dropped]) == sorted(prompts["prompt_id"])
    judge_pairs = pairs.filter(pl.col("kind") == "judge").height
    assert judge_pairs == round(0.25 * (pairs.height - judge_pairs))


def test_training_starts_at_ln_2_and_goes_down(finished):
    metrics = finished.table("iter-1/train/metrics.parquet", tables.TRAIN_METRICS)
    losses = metrics.filter(pl.col("metric") == "loss").sort("step")["value"]
    assert losses[0] == pytest.approx(0.693147, abs=1e-3)
    assert losses[-1] < losses[0] - 0.02
    assert any((finished.path / "iter-1/train/tensorboard").glob("events*"))
    ledger = finished.table("iter-1/train/ledger.parquet", tables.TRAIN_LEDGER)
    pairs = finished.table("iter-1/pairs.parquet", tables.PAIRS)
    (trained,) = metrics.filter(pl.col("metric") == "examples")["value"]
    assert trained + ledger.height == pairs.height


def test_the_report_tells_the_run(finished):
    page = (finished.path / "report.html").read_text()
    table = (finished.path / "report.txt").read_text()
    assert "<html" in page
    assert f"{metric(finished, 2, 'quality'):.2f}" in table


def test_snakemakes_own_report_shows_the_page(finished, tmp_path):
    finished.snakemake("--report", str(tmp_path / "run.zip"))
    with ZipFile(tmp_path / "run.zip") as file:
        (name,) = [name for name in file.namelist() if name.startswith("run/data/raw/")]
        assert file.read(name) == (finished.path / "report.html").read_bytes()


def test_evaluation_fine_tuning_makes_a_better_judge(finished):
    """Of 4 answers to a held-out ranked prompt each vote gives the exact score more often than the base model's."""
    base, tuned = (metric(finished, model, "judge_exact") for model in ("base", 0))
    assert tuned > base + 0.03
    assert metric(finished, 0, "judge_accuracy") > metric(finished, "base", "judge_accuracy")
    judgements = finished.table("eft/judgements/*.parquet", tables.JUDGEMENTS).height
    kept, dropped = (finished.table(f"eft/{name}.parquet", table).height for name, table in EFT_OUTCOMES.items())
    assert kept + dropped == judgements
    assert kept > 800


def test_logs_of_training_are_about_the_training(finished: Run) -> None:
    """Libraries told each rank's log of telemetry that nobody collects, and of defaults of theirs."""
    logs = [*finished.path.glob("logs/train/*.log"), *finished.path.glob("logs/reference_logprobs/*.log")]
    assert len(logs) == 4
    for log in logs:
        text = log.read_text(encoding="utf-8")
        assert "OneLogger" not in text
        assert "exporters" not in text
        assert "deprecated" not in text
