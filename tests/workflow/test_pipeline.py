"""The whole loop: one short real run of the demo's workflow, and what reruns when something changes."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from stages import tables
from stages.contracts.artifacts import read
from tests.support.workflow_run import GUARD, ROOT, Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Run:
    """A finished run; every process in it but `evaluate` was barred from the oracle's files."""
    run = Run(tmp_path_factory.mktemp("run"), {})
    run.snakemake()
    return run


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
    assert prompts.height == 96
    assert candidates.height == 96 * 4
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


def test_a_second_run_has_nothing_to_do(finished):
    started = time.monotonic()
    assert "Nothing to be done" in finished.snakemake()
    assert time.monotonic() - started < 15


def test_a_deleted_shard_reruns_itself_and_what_depends_on_it(finished):
    shard = finished.path / "iter-2/candidates/001.parquet"
    aside = shard.with_suffix(".aside")
    shard.rename(aside)
    try:
        planned = finished.planned()
    finally:
        aside.rename(shard)
    assert planned["candidates"] == 1
    assert planned["judge"] == 1
    assert {"score", "pairs", "reference_logprobs", "train"} <= planned.keys()
    assert not {"ingest", "select", "meta_judge", "rate"} & planned.keys()


def test_length_control_reruns_from_pairs_on(finished):
    """D19: nothing was kept, so that another rho meant to generate everything again."""
    planned = finished.planned(pairs={"length_control": [0.0, 0.3]})
    assert planned.keys() == {"pairs", "reference_logprobs", "train", "evaluate", "report"}
    assert planned["pairs"] == planned["train"] == 1


def test_aggregation_reruns_from_score_on(finished):
    planned = finished.planned(score={"aggregate": "median"})
    assert planned["score"] == 2
    assert {"pairs", "train"} <= planned.keys()
    assert not {"eft_score", "eft", "sft"} & planned.keys()
    # Iteration 2 starts from the retrained model.
    assert planned.get("judge", 0) == planned.get("candidates", 0) == 2


def test_the_score_pattern_reruns_whatever_parses_and_no_judgement_of_ranked_answers(finished):
    planned = finished.planned(score={"pattern": "Score: {{ score }}"})
    assert planned["eft_score"] == planned["sft"] == 1
    assert planned["score"] == 2
    assert "eft_judge" not in planned


def test_evaluation_fine_tuning_makes_a_better_judge(finished):
    """Of 4 answers to a held-out ranked prompt each vote gives the exact score more often than the base model's."""
    base, tuned = (metric(finished, model, "judge_exact") for model in ("base", 0))
    assert tuned > base + 0.03
    assert metric(finished, 0, "judge_accuracy") > metric(finished, "base", "judge_accuracy")
    judgements = finished.table("eft/judgements/*.parquet", tables.JUDGEMENTS).height
    kept, dropped = (finished.table(f"eft/{name}.parquet", table).height for name, table in EFT_OUTCOMES.items())
    assert kept + dropped == judgements
    assert kept > 1000


@pytest.mark.parametrize("stage", ["candidates", "judge"])
def test_a_killed_stage_goes_on_where_it_was(finished, stage, tmp_path):
    """SIGKILL once the journal has a part: the rerun asks for the rest only, and the rows are the same."""
    table = {"candidates": tables.CANDIDATES, "judge": tables.JUDGEMENTS}[stage]
    folder = {"candidates": "candidates", "judge": "judgements"}[stage]
    command = stage_command(finished, stage, tmp_path)
    environment = {**os.environ, **GUARD}
    killed = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*journal-*/part-*.parquet")) and time.monotonic() < deadline:
        assert killed.poll() is None, "finished before it could be killed"
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "out.parquet").exists()
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    done, total = map(int, re.findall(r"resuming: (\d+) of (\d+)", again.stderr)[0])
    assert 0 < done < total
    before = read(finished.path / f"iter-1/{folder}/000.parquet", table)
    after = read(tmp_path / "out.parquet", table)
    keys = [*table.key, "seed"]
    assert after.select(keys).equals(before.select(keys))
    assert (after["text"] == before["text"]).mean() >= 0.999


def test_a_stopped_and_a_killed_training_end_with_the_same_model(finished, tmp_path):
    """In the middle of `train` all processes get SIGTERM, as a cluster sends it: Snakemake waits until the training has
    saved. Those of the next try get SIGKILL. The same command goes on after either."""
    run = Run(tmp_path, {"train": {"checkpoint_every_steps": 2}})
    shutil.copytree(finished.path / "iter-1", run.path / "iter-1", ignore=shutil.ignore_patterns("train"))
    shutil.copytree(finished.path / "models/0", run.path / "models/0", symlinks=True)
    shutil.copytree(finished.path / "prompts", run.path / "prompts")
    command = run.command("--rerun-triggers", "mtime", "--", f"{run.path}/models/1/manifest.json")
    environment = {**os.environ, **GUARD}
    log = run.path / "logs/train/1.log"

    def interrupt(number: signal.Signals, step: int) -> None:
        job = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 600
        while not (log.exists() and f"step {step}/" in log.read_text()):
            assert job.poll() is None, "finished before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.05)
        if number == signal.SIGKILL:  # the ranks are no part of the group, and who is killed tells them nothing
            subprocess.run(["pkill", "-9", "-f", f"stages.train .*{run.path}"], check=True)
        os.killpg(job.pid, number)
        job.wait()
        assert not (run.path / "models/1/manifest.json").exists()

    interrupt(signal.SIGTERM, 3)
    stopped = int(re.search(r"stopped by SIGTERM after step (\d+); rerun to go on", log.read_text())[1])
    interrupt(signal.SIGKILL, stopped + 4)
    assert f"training goes on after step {stopped}\n" in log.read_text()
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert int(re.search(r"training goes on after step (\d+)\n", log.read_text())[1]) > stopped
    weights = [(result.path / "models/1/model.safetensors").read_bytes() for result in (finished, run)]
    assert weights[0] == weights[1]


def stage_command(run: Run, stage: str, output: Path) -> list[str]:
    """The command of the first shard in iteration 1 as Snakemake prints it, writing elsewhere, in small batches."""
    target = {"candidates": "candidates", "judge": "judgements"}[stage]
    printed = run.snakemake("-n", "-p", "--forcerun", stage, "--", f"{run.path}/iter-1/{target}/000.parquet")
    line = next(line for line in printed.splitlines() if f"-m stages.{stage} " in line)
    words = line[line.index("python -m") :].partition(" > ")[0].replace("python -m", f"{sys.executable} -m")
    words = re.sub(r"--output \S+", f"--output {output / 'out.parquet'}", words)
    words = re.sub(r"--model-inputs \S+", f"--model-inputs {output / 'inputs.parquet'}", words)
    words = re.sub(r"--engine.batch-tokens \S+", "--engine.batch-tokens 2000", words)
    return shlex.split(words)
