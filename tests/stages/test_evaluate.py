"""The stage `evaluate`: answers, judgements and comparisons from file to file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages import evaluate
from stages.config import EngineSettings
from stages.contracts.artifacts import read, write
from stages.contracts.errors import StageError
from stages.contracts.ids import prompt_id
from stages.contracts.schema import frame
from stages.engines import resumable
from stages.engines.protocol import Completion, Request
from stages.tables import (
    CHECK_EVALUATIONS,
    EVALUATIONS,
    JUDGE_EVALUATIONS,
    JUDGE_TESTS,
    JUDGEMENTS,
    META_EVALUATIONS,
    PROMPTS,
    SUMMARY,
)
from tests.support.fake_engine import FakeEngine
from tests.support.records import prompt_row, turns, write_prompts

OUTPUTS = ("evaluations", "check_evaluations", "judgements", "judge_evaluations", "meta_evaluations", "summary")


def reply(prompt: str, request_id: str) -> str:
    """`Fine.`; a judge's score is the one after `VOTES` in the response, by the vote's number; of two judgements, the
    one that says `careful` wins."""
    if "JUDGE" in prompt:
        score = prompt.split("VOTES ")[1].split()[int(request_id.rsplit("-v", 1)[1])]
        return f"{'careful' if score in ('5', '0') else 'hasty'} words {request_id[-1]}. Score: {score}"
    if "COMPARE" in prompt:
        assert "Score: ?" in prompt, "the meta-judge must not see the scores"
        return "Winner: Judgement " + ("A" if "careful" in prompt.split("SECOND")[0] else "B")
    return "Fine" + "." * int(request_id.rsplit("-", 1)[1]) + "."


@pytest.fixture
def world(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], FakeEngine]:
    """Arguments of the stage, without a test set, and the engine that it will get."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))

    def answer(request: Request) -> Completion:
        text = reply(tokenizer.decode(list(request.prompt_token_ids)), request.request_id)
        return Completion(request.request_id, text, [*tokenizer.encode(text).ids, 4], "stop", -1.0)

    engine = FakeEngine(answer)
    monkeypatch.setattr(resumable, "open_engine", lambda *_: engine)
    (tmp_path / "judge.jinja").write_text("JUDGE {{ conversation }} {{ response }}")
    (tmp_path / "meta.jinja").write_text(
        "COMPARE {{ conversation }} {{ response }} {{ judgement_a }} SECOND {{ judgement_b }}"
    )
    (tmp_path / "oracle.py").write_text("def quality(messages, text):\n    return float(len(text))\n")
    pool = write_prompts(tmp_path / "pool.parquet", [turns("Hello")], "validation")
    return {
        "model": tiny_model_dir, "number": -1, "pool": pool, "oracle": tmp_path / "oracle.py",
        "judge": {"template": tmp_path / "judge.jinja", "sampling": {"max_tokens": 40}},
        "meta_judge": {"template": tmp_path / "meta.jinja", "sampling": {"max_tokens": 40}},
        "engine": EngineSettings(max_sequence_length=400), "sampling": {"max_tokens": 8}, "judge_votes": 2,
        **{name: tmp_path / f"{name}.parquet" for name in OUTPUTS},
    }, engine  # fmt: skip


def write_tests(path: Path) -> Path:
    """Two prompts; the responses carry the two votes that they will get. Careful votes are 5 and 0."""
    given_votes = {"p": [("5 4", 0), ("0 2", 1)], "q": [("5 5", 0), ("5 5", 1)]}
    rows = [
        {"prompt_id": prompt, "candidate_id": f"{prompt}-{sample}", "messages": [{"role": "user", "content": "Hello"}],
         "text": f"VOTES {votes} .", "rank": rank, "quality": 5.0 * (1 - rank)}
        for prompt, answers in given_votes.items() for sample, (votes, rank) in enumerate(answers)
    ]  # fmt: skip
    write(frame(JUDGE_TESTS, rows), path, JUDGE_TESTS, {})
    return path


def test_the_stage_answers_judges_and_compares(world: Any, tmp_path: Path) -> None:
    values, engine = world
    args = evaluate.Args(**values, judge_tests=write_tests(tmp_path / "tests.parquet"), meta_comparisons=5)
    evaluate.main(args)
    assert set(read(args.evaluations, EVALUATIONS)["decoding"]) == {"sample", "greedy"}
    judged = read(args.judge_evaluations, JUDGE_EVALUATIONS).sort("candidate_id")
    assert judged["score"].to_list() == [4.5, 1, 5, 5]
    texts = read(args.judgements, JUDGEMENTS).sort("candidate_id", "vote")["text"]
    assert texts[:2].to_list() == ["careful words 0. Score: 5", "hasty words 1. Score: 4"]
    compared = read(args.meta_evaluations, META_EVALUATIONS)
    # Only the answers of p have votes of different error; in both of them the careful one is right.
    assert compared.select("candidate_id", "vote_a", "vote_b", "better", "winner").rows() == [
        (name, *order) for name in ("p-0", "p-1") for order in ((0, 1, "a", "a"), (1, 0, "b", "b"))
    ]
    summary = read(args.summary, SUMMARY)
    assert set(summary["model"]) == {-1}
    found = dict(summary.select("metric", "value").iter_rows())
    assert found["quality"] == found["quality_greedy"] == len("Fine.")
    assert found["judge_accuracy"] == (1 + 0.5) / 2
    assert found["judge_exact_order"] == 0.5
    assert (found["meta_accuracy"], found["meta_first_slot"], found["meta_flip"]) == (1, 0.5, 0)
    assert len(engine.asked) == 2 + 4 * 2 + 2 * 2
    assert not list(tmp_path.glob(".*journal*"))


def test_several_samples_of_a_prompt_count_as_one_prompt(world: Any) -> None:
    values, engine = world
    args = evaluate.Args(**values, samples=3)
    evaluate.main(args)
    answers = read(args.evaluations, EVALUATIONS).sort("decoding", "sample")
    assert answers.select("decoding", "sample").rows() == [("greedy", 0), *(("sample", number) for number in range(3))]
    assert answers["seed"].n_unique() == 3, "the greedy answer shares the seed of the first sample"
    found = {row["metric"]: (row["value"], row["n"]) for row in read(args.summary, SUMMARY).iter_rows(named=True)}
    assert (found["quality"], found["quality_greedy"]) == ((6, 1), (5, 1))
    assert len(engine.asked) == 4


def judged_texts(world: Any, tmp_path: Path, sizes: Sequence[int], messages: int, **score: Any) -> pl.DataFrame:
    """Judged answers of one prompt, the best one first, with `sizes` words; the question has `messages` words."""
    values, _ = world
    rows = [
        {"prompt_id": "p", "candidate_id": f"p-{rank}", "text": "VOTES 3 4 . " + "word " * size, "rank": rank,
         "messages": [{"role": "user", "content": "word " * (messages if rank == 0 else 1)}], "quality": None}
        for rank, size in enumerate(sizes)
    ]  # fmt: skip
    write(frame(JUDGE_TESTS, rows), tmp_path / "tests.parquet", JUDGE_TESTS, {})
    args = evaluate.Args(**values, judge_tests=tmp_path / "tests.parquet", score=score)
    evaluate.main(args)
    return read(args.judge_evaluations, JUDGE_EVALUATIONS).sort("candidate_id")


def test_an_answer_that_the_judge_never_saw_stays_in_the_lowest_place(
    world: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = judged_texts(world, tmp_path, [1, 1], 500)
    assert judged.select("score", "first_score", "valid_votes").rows() == [(None, None, 0), (3.5, 3, 2)]
    found = dict(read(world[0]["summary"], SUMMARY).select("metric", "value").iter_rows())
    assert found["judge_accuracy"] == 0
    assert found["judge_parse_rate"] == 1, "of the votes that were asked for"
    assert "of 2 test answers 1 too long to be judged, 0 shortened" in capsys.readouterr().err


@pytest.mark.parametrize("excluded", [True, False])
def test_an_answer_that_was_judged_shortened_is_scored_as_in_the_loop(
    world: Any, tmp_path: Path, excluded: bool
) -> None:
    judged = judged_texts(world, tmp_path, [500, 1], 1, exclude_shortened=excluded)
    assert judged.select("score", "valid_votes").rows() == [(None if excluded else 3.5, 2), (3.5, 2)]


def test_training_prompts_are_never_answered_instead_of_held_out_ones(world: Any) -> None:
    values, engine = world
    args = evaluate.Args(**values)
    pool = read(args.pool, PROMPTS).with_columns(split=pl.lit("train"))
    write(pool, args.pool, PROMPTS, {})
    with pytest.raises(StageError, match=r"pool\.parquet: none of the 1 prompts is held out; set evaluate\.prompts"):
        evaluate.main(args)
    assert len(engine.asked) == 0
    evaluate.main(args.model_copy(update={"split": "all"}))
    assert read(args.evaluations, EVALUATIONS).height == 2


def test_a_limit_does_not_take_the_first_prompts_of_the_data(world: Any) -> None:
    """D29: `limit` did. Here the hash of a prompt decides."""
    values, _ = world
    args = evaluate.Args(**values, max_prompts=3)
    asked = [turns(f"Question {number}") for number in range(9)]
    write_prompts(args.pool, asked, "validation")
    keys = [prompt_id(messages) for messages in asked]
    evaluate.main(args)
    answered = set(read(args.evaluations, EVALUATIONS)["prompt_id"])
    assert answered == set(sorted(keys)[:3])
    assert answered != set(keys[:3])


def test_without_a_test_set_all_tables_exist_and_are_empty(world: Any) -> None:
    values, engine = world
    args = evaluate.Args(**values, meta_comparisons=5)
    evaluate.main(args)
    for path, table in (
        (args.check_evaluations, CHECK_EVALUATIONS),
        (args.judgements, JUDGEMENTS),
        (args.judge_evaluations, JUDGE_EVALUATIONS),
        (args.meta_evaluations, META_EVALUATIONS),
    ):
        assert read(path, table).is_empty()
    assert set(read(args.summary, SUMMARY)["metric"]) == {"quality", "quality_greedy", "tokens"}
    assert len(engine.asked) == 2


def test_the_meta_judge_is_left_alone_unless_asked_for(world: Any, tmp_path: Path) -> None:
    values, engine = world
    args = evaluate.Args(**values, judge_tests=write_tests(tmp_path / "tests.parquet"))
    evaluate.main(args)
    assert read(args.meta_evaluations, META_EVALUATIONS).is_empty()
    assert len(engine.asked) == 2 + 4 * 2


def test_a_file_without_an_oracle_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"missing\.py: no such Python file"):
        evaluate.load_oracle(tmp_path / "missing.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(StageError, match=r"empty\.py: defines no function quality"):
        evaluate.load_oracle(tmp_path / "empty.py")


@pytest.mark.parametrize(
    ("scale", "low", "high"),
    # On a scale up to 5 it is an end of it: two of two, t = 12.7062 with one degree of freedom.
    [("", None, None), ("SCALE = (0, 5)", 5 * 2 / (2 + 12.7062**2), 5)],
)
def test_an_oracle_may_state_its_scale(
    world: Any, tmp_path: Path, scale: str, low: float | None, high: float | None
) -> None:
    """Every greedy answer has the quality 5."""
    values, _ = world
    values["pool"] = write_prompts(tmp_path / "two.parquet", [turns("Hello"), turns("Hi")], "validation")
    values["oracle"].write_text(f"{scale}\ndef quality(messages, text):\n    return float(len(text))\n")
    evaluate.main(evaluate.Args(**values))
    (row,) = read(values["summary"], SUMMARY).filter(metric="quality_greedy").iter_rows(named=True)
    assert (row["value"], row["n"]) == (5, 2)
    assert (row["low"], row["high"]) == pytest.approx((low, high), abs=1e-5)


def test_an_oracle_that_leaves_its_scale_is_refused(world: Any) -> None:
    values, _ = world
    values["oracle"].write_text("SCALE = (0, 4)\ndef quality(messages, text):\n    return float(len(text))\n")
    with pytest.raises(StageError, match="gives an answer the quality 5; its SCALE is 0 to 4"):
        evaluate.main(evaluate.Args(**values))
    assert not values["summary"].exists()


def test_held_out_prompts_with_checks_give_ifevals_four_numbers(world: Any) -> None:
    """`Fine.`, and as second sample `Fine..`: no comma in either; five letters e in neither; one ends in `Fine.`."""
    values, _ = world
    checks = [
        {"id": "punctuation:no_comma", "arguments": {}},
        {
            "id": "keywords:letter_frequency",
            "arguments": {"letter": "e", "let_frequency": 5, "let_relation": "at least"},
        },
    ]
    ends = [{"id": "startend:end_checker", "arguments": {"end_phrase": "e."}}]
    rows = [
        prompt_row(turns("Both"), 1, "validation", checks=json.dumps(checks)),
        prompt_row(turns("One"), 2, "validation", checks=json.dumps(ends)),
        prompt_row(turns("None"), 3, "validation"),
    ]
    write(frame(PROMPTS, rows), values["pool"], PROMPTS, {})
    args = evaluate.Args(**values, samples=2)
    evaluate.main(args)
    found = read(args.check_evaluations, CHECK_EVALUATIONS)
    assert found.height == (2 + 1) * (2 + 1)
    assert found.filter(pl.col("decoding") == "sample").group_by("instruction").agg(pl.col("strict").sum()).sort(
        "instruction"
    ).rows() == [("keywords:letter_frequency", 0), ("punctuation:no_comma", 2), ("startend:end_checker", 1)]
    numbers = {row["metric"]: row for row in read(args.summary, SUMMARY).iter_rows(named=True)}
    assert (numbers["prompt_strict"]["value"], numbers["prompt_strict"]["n"]) == (1 / 4, 2)
    assert numbers["instruction_strict"]["value"] == 3 / 6
    assert numbers["prompt_strict_greedy"]["value"] == 1 / 2
    assert numbers["instruction_strict_greedy"]["value"] == 2 / 3
    assert numbers["follows:startend:end_checker"]["value"] == 1 / 2
    assert numbers["follows:keywords:letter_frequency"]["n"] == 1
