"""The stage `compare`: answers of two models, judged in both orders, from file to file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages import compare
from stages.config import EngineSettings
from stages.contracts.artifacts import read, write
from stages.contracts.errors import StageError
from stages.contracts.ids import prompt_id
from stages.contracts.schema import frame
from stages.engines import resumable
from stages.engines.protocol import Completion, Request
from stages.tables import COMPARISONS, EVALUATIONS, PROMPTS, WIN_RATES
from tests.support.fake_engine import FakeEngine
from tests.support.records import prompt_row, turns

ASKED = [turns(f"Question {number}") for number in range(4)]


def verdict(prompt: str) -> str:
    """The answer that says `good` wins; if both or none do, the first one; `odd` ones win nothing."""
    first, second = prompt.split("FIRST")[1].split("SECOND")
    if "odd" in prompt:
        return "Hard to say."
    return f"Fine.\nWinner: {'B' if 'good' in second and 'good' not in first else 'A'}"


@pytest.fixture
def world(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], FakeEngine]:
    """Arguments of the stage, without answers, and the engine that it will get."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))

    def answer(request: Request) -> Completion:
        text = verdict(tokenizer.decode(list(request.prompt_token_ids)))
        return Completion(request.request_id, text, [*tokenizer.encode(text).ids, 4], "stop", -1.0)

    engine = FakeEngine(answer)
    monkeypatch.setattr(resumable, "open_engine", lambda *_: engine)
    (tmp_path / "compare.jinja").write_text("{{ conversation }} FIRST {{ response_a }} SECOND {{ response_b }}")
    return {
        "model": tiny_model_dir, "number": 2, "other": "1", "template": tmp_path / "compare.jinja",
        "sampling": {"max_tokens": 40}, "engine": EngineSettings(max_sequence_length=400),
        "evaluations": tmp_path / "mine.parquet", "answers": tmp_path / "others.parquet",
        **{name: tmp_path / f"{name}.parquet" for name in ("comparisons", "win_rates")},
    }, engine  # fmt: skip


def write_answers(path: Path, texts: Sequence[str], reasons: Sequence[str] | None = None) -> None:
    """One sampled answer to each prompt."""
    rows = [
        {"prompt_id": prompt_id(messages), "decoding": "sample", "sample": 0, "messages": messages, "text": text,
         "finish_reason": reason, "seed": 0, "token_ids": [], "tokens": 0}
        for messages, text, reason in zip(ASKED, texts, reasons or ["stop"] * len(texts), strict=False)
    ]  # fmt: skip
    write(frame(EVALUATIONS, rows), path, EVALUATIONS, {})


def run(values: dict[str, Any], **more: Any) -> tuple[dict[str, tuple[Any, ...]], dict[str, float]]:
    """Winner and status by prompt, first where the model's answer was shown first; and the numbers."""
    args = compare.Args(**{**values, **more})
    compare.main(args)
    rows = read(args.comparisons, COMPARISONS).sort("prompt_id", "first")
    assert set(rows["first"]) == {"model", "other"}
    found = rows.group_by("prompt_id").agg("winner", "parse_status")
    numbers = read(args.win_rates, WIN_RATES)
    assert set(numbers.select("model", "other").iter_rows()) == {(args.number, args.other)}
    verdicts = {prompt: (*winners, *statuses) for prompt, winners, statuses in found.iter_rows()}
    return verdicts, dict(numbers.select("metric", "value").iter_rows())


def test_both_orders_decide(world: Any) -> None:
    values, engine = world
    write_answers(values["evaluations"], ["good one", "plain", "plain here", "odd"])
    write_answers(values["answers"], ["plain", "good one", "plain there", "plain"])
    verdicts, numbers = run(values)
    ok, none = ("ok", "ok"), ("no_match", "no_match")
    assert [verdicts[prompt_id(messages)] for messages in ASKED] == [
        ("model", "model", *ok), ("other", "other", *ok), ("model", "other", *ok), (None, None, *none),
    ]  # fmt: skip
    assert numbers["win_rate"] == 0.5
    assert numbers["tie_share"] == pytest.approx(1 / 3)
    assert numbers["unparsed"] == 1 / 4
    assert len(engine.asked) == 8
    assert not list(values["comparisons"].parent.glob(".*journal*"))


def test_swapped_models_give_mirrored_numbers(world: Any) -> None:
    values, engine = world
    write_answers(values["evaluations"], ["good one", "good", "plain here", "plain"])
    write_answers(values["answers"], ["plain", "plain and long", "plain there", "good one"])
    verdicts, numbers = run(values)
    asked = {(request.prompt_token_ids, request.seed) for request in engine.asked}
    swapped = {"evaluations": values["answers"], "answers": values["evaluations"], "number": 1, "other": "2"}
    mirrored, other = run(values, **swapped)
    assert asked == {(request.prompt_token_ids, request.seed) for request in engine.asked[8:]}
    names = {"model": "other", "other": "model"}
    assert mirrored == {
        prompt: (names[second], names[first], *status) for prompt, (first, second, *status) in verdicts.items()
    }
    for metric in ("win_rate", "win_rate_length_controlled"):
        assert numbers[metric] == pytest.approx(1 - other[metric])
    assert numbers["longer_by"] == -other["longer_by"]
    assert numbers["win_rate"] == (1 + 1 + 0.5 + 0) / 4


def test_what_decides_nothing_is_not_asked(world: Any) -> None:
    values, engine = world
    write_answers(values["evaluations"], ["<think>good</think>same", "", "word " * 400, "plain"], ["stop", "error"] * 2)
    write_answers(values["answers"], ["same", "good", "plain", "good"])
    verdicts, numbers = run(values)
    assert [verdicts[prompt_id(messages)][2:] for messages in ASKED] == [
        ("alike", "alike"), ("error", "error"), ("error", "error"), ("error", "error"),
    ]  # fmt: skip
    assert len(engine.asked) == 0
    assert (numbers["win_rate"], numbers["tie_share"], numbers["unparsed"]) == (0.5, 1, 0.75)
    errors = read(values["comparisons"], COMPARISONS)["error"]
    assert set(errors) == {
        "not asked: the answers are the same", "not asked: one of the answers failed",
        "not asked: longer than 360 tokens in one of both orders",
    }  # fmt: skip


def test_the_judge_sees_answers_without_their_thoughts(world: Any) -> None:
    values, _ = world
    write_answers(values["evaluations"], ["<think>good</think>plain"])
    write_answers(values["answers"], ["plain, good"])
    verdicts, _ = run(values)
    assert [*verdicts.values()] == [("other", "other", "ok", "ok")]
    rows = read(values["comparisons"], COMPARISONS)
    assert set(rows.select("characters", "other_characters").iter_rows()) == {(len("plain"), len("plain, good"))}


def test_the_datas_own_answers_are_an_opponent(world: Any, capsys: pytest.CaptureFixture[str]) -> None:
    values, _ = world
    write_answers(values["evaluations"], ["good one", "plain", "good"])
    given = ["plain", "good one", None]
    rows = [prompt_row(messages, answer=answer) for messages, answer in zip(ASKED, given, strict=False)]
    write(frame(PROMPTS, rows), values["answers"], PROMPTS, {})
    verdicts, numbers = run(values, other="references")
    assert len(verdicts) == 2
    assert numbers["win_rate"] == 0.5
    assert "1 of 3 prompts have no answer of their data set" in capsys.readouterr().err
    write(frame(PROMPTS, rows).with_columns(answer=pl.lit(None, pl.String)), values["answers"], PROMPTS, {})
    with pytest.raises(StageError, match=r"others\.parquet: no held-out prompt has an answer of its data set"):
        run(values, other="references")


def test_answers_to_other_prompts_are_refused(world: Any) -> None:
    values, engine = world
    write_answers(values["evaluations"], ["good", "plain"])
    write_answers(values["answers"], ["good"])
    with pytest.raises(
        StageError, match=rf"others\.parquet: no row for decoding sample, prompt_id {prompt_id(ASKED[1])}"
    ):
        run(values)
    assert len(engine.asked) == 0


def test_a_killed_comparison_goes_on_where_it_was(world: Any) -> None:
    values, engine = world
    write_answers(values["evaluations"], ["good one", "plain", "plain here", "good"])
    write_answers(values["answers"], ["plain", "good one", "plain there", "plain"])
    engine.dies_before = 5
    with pytest.raises(RuntimeError, match="killed"):
        run(values)
    engine.dies_before = None
    _, numbers = run(values)
    assert len(engine.asked) == 8
    assert numbers["win_rate"] == (1 + 0 + 0.5 + 1) / 4
