"""What an earlier run had: lengths, shares and rates, on rows written by hand."""

from pathlib import Path

import pytest

from stages import tables
from stages.contracts.artifacts import write
from stages.contracts.errors import StageError
from stages.contracts.schema import Table, frame
from stages.forecast.earlier import earlier_means, earlier_rates
from stages.inspection.run_folder import RunFolder

ENGINE = {"backend": "trtllm", "trtllm": {"tensor_parallel_size": 2}}
COMPLETION = {"seed": 1, "text": "a", "token_ids": [1], "finish_reason": "stop"}


def save(path: Path, table: Table, rows: list[dict], **settings: object) -> None:
    write(frame(table, rows), path, table, {"settings": settings})


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Two prompts, two candidates each of 10 tokens (one failed), a pair of each; jobs of 4 seconds, steps of 2."""
    folder = tmp_path / "iter-1"
    prompts = [{"prompt_id": key, "messages": [], "split": "train", "source": "s", "row": 1} for key in "ab"]
    save(folder / "prompts.parquet", tables.PROMPTS, prompts)
    shown = [{"prompt_id": key, "messages": [], "token_ids": [0] * length} for key, length in (("a", 4), ("b", 8))]
    save(folder / "candidate_prompts/000.parquet", tables.CANDIDATE_PROMPTS, shown)
    candidates = [
        {"prompt_id": key, "candidate_id": f"{key}{n}", "iteration": 1, "sample": n, **COMPLETION, "tokens": tokens}
        for key, n, tokens in (("a", 0, 10), ("a", 1, 10), ("b", 0, 10), ("b", 1, 0))
    ]
    save(folder / "candidates/000.parquet", tables.CANDIDATES, candidates, engine=ENGINE)
    speed = [
        {"step": step, "metric": metric, "value": value}
        for step in (1, 2)
        for metric, value in (("seconds", 2.0), ("tokens_per_second", 100.0 * step))
    ]
    megatron = {"processes": 2, "nodes": 3}
    save(folder / "train/speed.parquet", tables.TRAIN_SPEED, speed, megatron=megatron, epochs=2)
    (tmp_path / "benchmarks/candidates").mkdir(parents=True)
    (tmp_path / "benchmarks/candidates/1-000.tsv").write_text("s\th:m:s\n4.0\t0:00:04\n")
    return RunFolder(tmp_path, (1,))


def test_lengths_are_those_of_what_was_asked(run: RunFolder) -> None:
    means = earlier_means(run)
    assert (means.prompt, means.response, means.judgement, means.verdict) == (6, 10, None, None)


def test_rates_are_those_of_one_device(run: RunFolder) -> None:
    rates = earlier_rates(run)
    assert rates == {"candidates": 30 / 4 / 2, "train": (2 * 100 + 2 * 200) / 4 / 6}


def test_shares(run: RunFolder) -> None:
    assert earlier_means(run).shares == {}
    row = {"kind": "actor", "prompt_id": "a", "prompt": [], "chosen": [], "rejected": [], "prompt_token_ids": [1]}
    row |= {"chosen_token_ids": [1], "rejected_token_ids": [1], "chosen_candidate_id": "a0"}
    pair = {"pair_id": "p", **row, "rejected_candidate_id": "a1"}
    path = run.path / "iter-1/pairs.parquet"
    save(path, tables.PAIRS, [pair], per_prompt="best_worst", judge_share=0.0)
    assert earlier_means(run).shares == {"train": 0.5}
    save(path, tables.PAIRS, [pair], per_prompt="best_worst", judge_share=0.5)
    assert earlier_means(run).shares == {"train": 0.25}


def test_what_cannot_be_read_is_named(run: RunFolder) -> None:
    (run.path / "benchmarks/candidates/1-000.tsv").write_text("nothing\n")
    with pytest.raises(StageError, match="a benchmark of candidates cannot be read"):
        earlier_rates(run)
