"""The stage `meta_judge`, with a tiny model: both orders, hidden scores, shards, and what is too long."""

from pathlib import Path

import polars as pl
import pytest

from stages import meta_judge
from stages.contracts.artifacts import read, write
from stages.contracts.errors import StageError
from stages.contracts.ids import Seeds
from stages.tables import (
    JUDGEMENTS,
    META_JUDGE_PROMPTS,
    VERDICTS,
)
from tests.support.meta_judging import judged_files, meta_args
from tests.support.records import turns, write_prompts


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "prompts.parquet", [turns(f"Say hello {number}") for number in range(6)])


def test_meta_judge_compares_both_orders_with_hidden_scores(tiny_model_dir: Path, prompts: Path) -> None:
    said = ["good. Score: 3", "bad. Score: 1", "fine. Score: 3"]
    files = judged_files(prompts, {0: said, 1: ["same. Score: 2", "same. Score: 2"]})
    args = meta_args(tiny_model_dir, prompts, files, "verdicts", seed=3, iteration=1)
    meta_judge.main(args)
    found, inputs = read(args.output, VERDICTS), read(args.model_inputs, META_JUDGE_PROMPTS)
    assert sorted(found.select("vote_a", "vote_b").rows()) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    assert found["candidate_id"].n_unique() == 1
    for row in found.iter_rows(named=True):
        assert row["seed"] == Seeds(3, 1).of("meta_judge", row["candidate_id"], row["vote_a"], row["vote_b"])
    for row in inputs.iter_rows(named=True):
        hidden = [text.rstrip("0123456789") for text in said]
        _, response, a, b = row["messages"][0]["content"].split("|")
        assert response == "hello there"
        assert a.startswith(f"A: {hidden[row['vote_a']]}")
        assert b.startswith(f"B: {hidden[row['vote_b']]}")
        assert not any(digit in a + b for digit in "0123456789")


def test_meta_judge_shards_partition_the_prompts(tiny_model_dir: Path, prompts: Path) -> None:
    files = judged_files(prompts, {i: [f"good. Score: {i % 2 + 3}", "bad. Score: 1"] for i in range(6)})
    whole = meta_args(tiny_model_dir, prompts, files, "whole")
    parts = [meta_args(tiny_model_dir, prompts, files, f"part{i}", shard=i, shards=2) for i in range(2)]
    for args in (whole, *parts):
        meta_judge.main(args)
    columns = [name for name in VERDICTS.columns if name != "logprob"]
    joined = read([args.output for args in parts], VERDICTS, columns).sort(VERDICTS.key)
    assert joined.height == 12
    assert joined.equals(read(whole.output, VERDICTS, columns))


def test_over_long_comparisons_are_not_asked_in_either_order_and_say_so(
    tiny_model_dir: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """D5: they were held against the training's limit, not the engine's."""
    files = judged_files(prompts, {0: ["good. Score: 3", "x" * 200 + ". Score: 1", "bad. Score: 2"]})
    args = meta_args(tiny_model_dir, prompts, files, "verdicts")
    meta_judge.main(args)
    verdicts = read(args.output, VERDICTS)
    asked = pl.col("error").is_null()
    assert verdicts.filter(asked).select("vote_a", "vote_b").rows() == [(0, 2), (2, 0)]
    others = verdicts.filter(~asked)
    assert others.select("vote_a", "vote_b", "finish_reason").rows() == [
        (a, b, "error") for a, b in ((0, 1), (1, 0), (1, 2), (2, 1))
    ]
    assert others["error"].str.contains("not asked: longer than").all()
    assert read(args.model_inputs, META_JUDGE_PROMPTS).height == 2
    assert "4 over-long comparisons and 0 of judgements" in capsys.readouterr().err


def test_meta_judge_refuses_missing_judgements(tiny_model_dir: Path, prompts: Path) -> None:
    files = judged_files(prompts, {0: ["good. Score: 3", "bad. Score: 1"]})
    fewer = prompts.parent / "fewer.parquet"
    write(read(files["judgements"], JUDGEMENTS)[1:], fewer, JUDGEMENTS, {})
    with pytest.raises(StageError, match="is missing; give all"):
        meta_judge.main(meta_args(tiny_model_dir, prompts, {**files, "judgements": fewer}, "verdicts"))
    assert not (prompts.parent / "verdicts.parquet").exists()


def test_judgements_that_differ_in_their_scores_alone_are_not_compared(
    tiny_model_dir: Path, prompts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both orders of two equal texts were asked, and the pair trained on with a winner by chance."""
    files = judged_files(prompts, {0: ["good. Score: 3", "good.\nTotal: 4", "good. Score: 4"]})
    args = meta_args(tiny_model_dir, prompts, files, "verdicts")
    meta_judge.main(args)
    verdicts = read(args.output, VERDICTS)
    unasked = verdicts.filter(pl.col("finish_reason") == "alike")
    assert unasked.select("vote_a", "vote_b").rows() == [(0, 2), (2, 0)]
    assert unasked["error"].str.starts_with("not asked: ").all()
    assert verdicts.height == 6
    assert read(args.model_inputs, META_JUDGE_PROMPTS).height == 4
    assert "2 of judgements that differ in their scores alone not asked" in capsys.readouterr().err
    shown = meta_args(tiny_model_dir, prompts, files, "shown", hide_scores=False)
    meta_judge.main(shown)
    assert "alike" not in read(shown.output, VERDICTS)["finish_reason"]
    assert "Score: 3" in read(shown.model_inputs, META_JUDGE_PROMPTS)["messages"].to_list()[0][0]["content"]
