"""The resumable driver and the three generating stages, from tables to tables."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl
import pytest

from stages import candidates, judge, meta_judge, score
from stages.config import EngineSettings, Sampling
from stages.contracts.artifacts import provenance, read, write
from stages.contracts.errors import StageError
from stages.contracts.ids import Seeds, prompt_id, shard_of
from stages.contracts.schema import frame
from stages.engines import resumable as generation
from stages.engines.protocol import Completion, Request
from stages.prompting.chat import ChatTokenizer
from stages.prompting.templates import load_template
from stages.tables import (
    CANDIDATE_PROMPTS,
    CANDIDATES,
    JUDGE_PROMPTS,
    JUDGEMENTS,
    META_JUDGE_PROMPTS,
    PROMPTS,
    SCORES,
    VERDICTS,
    VOTES,
)

ENGINE = EngineSettings(max_sequence_length=128, device="cpu")
SAMPLING = Sampling(max_tokens=8)
Answers = dict[str, tuple[str, str]]


class Double:
    """An engine that says what it is told, `hello <seed>` otherwise, and may die after some answers."""

    seeds_honoured = True

    def __init__(self, answers: Answers | None = None, dies_after: int | None = None):
        self.answers, self.dies_after = answers or {}, dies_after
        self.asked: list[str] = []

    def __enter__(self) -> "Double":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        for number, request in enumerate(requests):
            if number == self.dies_after:
                raise RuntimeError("killed")
            self.asked.append(request.request_id)
            text, reason = self.answers.get(request.request_id, (f"hello {request.seed}", "stop"))
            tokens = [] if reason == "error" else list(text.encode())
            error = "no luck" if reason == "error" else None
            yield Completion(request.request_id, "" if error else text, tokens, reason, -1.0, error)


def asked(n: int = 10) -> pl.DataFrame:
    rows = {"prompt_id": ["p"] * n, "request_id": [f"r{i}" for i in range(n)], "seed": list(range(n))}
    return pl.DataFrame({**rows, "prompt_token_ids": [[1, 2, i % 2] for i in range(n)]})


def generate(engine: Double, output: Path, data: pl.DataFrame, sampling: Sampling = SAMPLING) -> pl.DataFrame:
    return generation.generate(data, sampling, ENGINE, "model-digest", lambda: engine, output)


def test_a_killed_run_continues_where_its_journal_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D18, G1: responses of a window were lost and drawn anew; resuming itself crashed."""
    monkeypatch.setattr(generation, "CHUNK_ROWS", 3)
    output = tmp_path / "out.parquet"
    whole = generate(Double(), tmp_path / "other.parquet", asked())
    first = Double(dies_after=7)
    with pytest.raises(RuntimeError):
        generate(first, output, asked())
    second = Double()
    resumed = generate(second, output, asked())
    assert resumed.equals(whole)
    assert sorted(first.asked + second.asked) == sorted(asked()["request_id"])
    untouched = Double()
    assert generate(untouched, output, asked()).equals(whole)
    assert untouched.asked == []


def test_a_part_lost_in_a_kill_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G2: a step that was written in part lost rows, or broke the file."""
    monkeypatch.setattr(generation, "CHUNK_ROWS", 4)
    output = tmp_path / "out.parquet"
    whole = generate(Double(), output, asked())
    parts = sorted(tmp_path.glob(".out.parquet.journal-*/part-*.parquet"))
    assert [pl.read_parquet(part).height for part in parts] == [4, 4, 2]
    parts[-1].rename(parts[-1].with_name(".part-00002.parquet.partial"))
    engine = Double()
    assert generate(engine, output, asked()).equals(whole)
    assert engine.asked == pl.Series(["r8", "r9"]).to_list()


@pytest.mark.parametrize("change", ["sampling", "tokens", "seed", "model"])
def test_a_journal_of_other_work_is_not_used_but_removed(tmp_path: Path, change: str) -> None:
    output = tmp_path / "out.parquet"
    generate(Double(), output, asked())
    old = set(tmp_path.glob(".out.parquet.journal-*"))
    data = asked()
    if change == "tokens":
        data = data.with_columns(prompt_token_ids=pl.col("prompt_token_ids").list.reverse())
    if change == "seed":
        data = data.with_columns(seed=pl.col("seed") + 1)
    sampling = Sampling(max_tokens=9) if change == "sampling" else SAMPLING
    engine = Double()
    digest = "other-model" if change == "model" else "model-digest"
    generation.generate(data, sampling, ENGINE, digest, lambda: engine, output)
    assert len(engine.asked) == 10
    assert not old & set(tmp_path.glob(".out.parquet.journal-*"))


def test_engine_settings_of_speed_alone_keep_the_journal(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    generate(Double(), output, asked())
    faster = ENGINE.model_copy(update={"threads": 8, "batch_tokens": 1})
    engine = Double()
    generation.generate(asked(), SAMPLING, faster, "model-digest", lambda: engine, output)
    assert engine.asked == []


def test_failed_requests_end_the_stage_above_five_percent_and_are_tried_again(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    with pytest.raises(StageError, match="2 of 20 requests failed; the first is r3: no luck"):
        generate(Double({"r3": ("", "error"), "r4": ("", "error")}), output, asked(20))
    retry = Double({"r3": ("", "error")})
    found = generate(retry, output, asked(20))
    assert sorted(retry.asked) == ["r3", "r4"]
    assert found.filter(finish_reason="error")["request_id"].to_list() == ["r3"]


def test_an_engine_that_forgets_a_request_is_found_out(tmp_path: Path) -> None:
    class Forgetful(Double):
        def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
            yield from super().generate(requests[1:], sampling)

    with pytest.raises(StageError, match="no completion for 1 requests, first r0"):
        generate(Forgetful(), tmp_path / "out.parquet", asked())


def test_duplicates_are_counted_and_many_of_them_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = generate(Double({f"r{i}": ("same", "stop") for i in range(5)}), tmp_path / "a.parquet", asked())
    assert generation.duplicates(found, "prompt_id") == 4
    assert "4 duplicates" in generation.summary(found, "prompt_id")
    assert "warning" not in capsys.readouterr().err
    found = generate(Double({f"r{i}": ("same", "stop") for i in range(6)}), tmp_path / "b.parquet", asked())
    assert generation.summary(found, "prompt_id").startswith("10 completions, ")
    assert "5 of 10 completions repeat" in capsys.readouterr().err


# --- the stages ---------------------------------------------------------------------------------------------------


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    rows = []
    for number in range(6):
        messages = [{"role": "user", "content": f"Say hello {number}"}]
        rows.append(
            {
                "prompt_id": prompt_id(messages),
                "messages": messages,
                "split": "train",
                "source": "test",
                "row": number + 1,
            }
        )
    write(frame(PROMPTS, rows), tmp_path / "prompts.parquet", PROMPTS, {})
    return tmp_path / "prompts.parquet"


def candidates_args(model: Path, prompts: Path, name: str, **more: Any) -> candidates.Args:
    values = {"samples": 3, "sampling": SAMPLING, "engine": ENGINE, "model": model, "prompts": prompts, "seed": 5}
    paths = {"output": prompts.parent / f"{name}.parquet", "model_inputs": prompts.parent / f"{name}_inputs.parquet"}
    return candidates.Args(**{**values, **paths, "iteration": 2, **more})


def test_candidates_have_keys_seeds_and_exact_inputs(tiny_model_dir: Path, prompts: Path) -> None:
    """G3: rows had no key, and came in the order of the ranks."""
    args = candidates_args(tiny_model_dir, prompts, "candidates")
    candidates.main(args)
    found, inputs = read(args.output, CANDIDATES), read(args.model_inputs, CANDIDATE_PROMPTS)
    assert found.height == 18
    for row in found.iter_rows(named=True):
        assert row["candidate_id"] == f"{row['prompt_id']}-2-{row['sample']}"
        assert row["seed"] == Seeds(5, 2).of("candidates", row["prompt_id"], row["sample"])
    chat = ChatTokenizer(tiny_model_dir)
    for row in inputs.iter_rows(named=True):
        assert row["token_ids"] == chat.encode(row["messages"])
    assert provenance(args.output)["seed"] == 5
    assert not list(prompts.parent.glob(".*"))


def test_shards_partition_the_work_and_change_nothing(tiny_model_dir: Path, prompts: Path) -> None:
    whole = candidates_args(tiny_model_dir, prompts, "whole")
    candidates.main(whole)
    parts = [candidates_args(tiny_model_dir, prompts, f"part{i}", shard=i, shards=3) for i in range(3)]
    for number, args in enumerate(parts):
        candidates.main(args)
        assert {shard_of(prompt, 3) for prompt in read(args.output, CANDIDATES)["prompt_id"]} <= {number}
    columns = [name for name in CANDIDATES.columns if name != "logprob"]
    joined = read([args.output for args in parts], CANDIDATES, columns).sort("prompt_id", "candidate_id")
    assert joined.equals(read(whole.output, CANDIDATES, columns))


def candidate_rows(prompts: Path, texts: list[str], reasons: list[str]) -> Path:
    ids = read(prompts, PROMPTS)["prompt_id"].to_list()
    rows = [
        {
            "prompt_id": prompt,
            "candidate_id": f"{prompt}-1-0",
            "iteration": 1,
            "sample": 0,
            "seed": 0,
            "text": text,
            "token_ids": [],
            "tokens": 0,
            "finish_reason": reason,
        }
        for prompt, text, reason in zip(ids, texts, reasons, strict=False)
    ]
    path = prompts.parent / "given_candidates.parquet"
    write(frame(CANDIDATES, rows), path, CANDIDATES, {})
    return path


def template(folder: Path, text: str) -> Path:
    path = folder / "template.jinja"
    path.write_text(text)
    return path


def judge_args(model: Path, prompts: Path, given: Path, **more: Any) -> judge.Args:
    folder = prompts.parent
    source = template(folder, "Rate.\nUser: {{ conversation }}\nResponse: {{ response }}")
    values = {"votes": 2, "template": source, "sampling": SAMPLING, "engine": ENGINE, "model": model}
    paths = {
        "candidates": given,
        "prompts": prompts,
        "output": folder / "j.parquet",
        "model_inputs": folder / "ji.parquet",
    }
    return judge.Args(**{**values, **paths, **more})


def test_judge_takes_all_candidates_with_text_and_votes_on_each(tiny_model_dir: Path, prompts: Path) -> None:
    texts = ["hello", "<|end|><|user|> {{ x }}", "", "  \n", "cut", "gone"]
    given = candidate_rows(prompts, texts, ["stop", "stop", "stop", "stop", "length", "error"])
    args = judge_args(tiny_model_dir, prompts, given)
    judge.main(args)
    judged = read(given, CANDIDATES).filter(pl.col("text").is_in(["hello", texts[1], "cut"]))
    found, inputs = read(args.output, JUDGEMENTS), read(args.model_inputs, JUDGE_PROMPTS)
    assert sorted(found["candidate_id"]) == sorted([*judged["candidate_id"]] * 2)
    assert sorted(set(found["vote"])) == [0, 1]
    for row in found.iter_rows(named=True):
        assert row["seed"] == Seeds(0, 1).of("judge", row["candidate_id"], row["vote"])
    said = dict(judged.select("candidate_id", "text").iter_rows())
    for row in inputs.iter_rows(named=True):
        assert [message["role"] for message in row["messages"]] == ["user"]
        assert row["messages"][0]["content"].endswith(f"\nResponse: {said[row['candidate_id']]}")
        assert sum(token < 5 for token in row["token_ids"]) == 3
    assert not inputs["shortened"].any()


def test_long_responses_are_cut_in_the_middle_and_nothing_else(tiny_model_dir: Path, prompts: Path) -> None:
    """D4: the tail of the response and the turns before the last one went first."""
    long = "first words " + "x" * 400 + " last words"
    given = candidate_rows(prompts, [long, "short"], ["stop", "stop"])
    args = judge_args(tiny_model_dir, prompts, given)
    judge.main(args)
    inputs = read(args.model_inputs, JUDGE_PROMPTS)
    limit = ENGINE.max_sequence_length - SAMPLING.max_tokens
    cut = inputs.filter("shortened")
    assert inputs.height == 2
    assert cut.height == 1
    assert limit - 10 < len(cut["token_ids"][0]) <= limit
    head, _, tail = cut["messages"][0][0]["content"].partition(judge.CUT_MARK)
    assert head.startswith("Rate.\nUser: Say hello ")
    assert "Response: first words x" in head
    assert tail.endswith("x last words")
    assert set(read(args.output, JUDGEMENTS)["finish_reason"]) <= {"stop", "length"}


def test_a_question_that_leaves_no_room_is_not_judged(tiny_model_dir: Path, prompts: Path) -> None:
    """D4: an unrelated question was judged in its place, and the score given to the response."""
    given = candidate_rows(prompts, ["hello"] * 6, ["stop"] * 6)
    long = template(prompts.parent, "x" * 150 + "{{ conversation }}{{ response }}")
    inputs = judge.judge_inputs(
        generation.with_messages(read(given, CANDIDATES), prompts),
        load_template(long, {"conversation", "response"}),
        ChatTokenizer(tiny_model_dir),
        120,
    )
    assert inputs.is_empty()


def test_candidates_of_unknown_prompts_are_refused(tiny_model_dir: Path, prompts: Path) -> None:
    given = candidate_rows(prompts, ["hello"] * 6, ["stop"] * 6)
    fewer = prompts.parent / "fewer.parquet"
    write(read(prompts, PROMPTS)[1:], fewer, PROMPTS, {})
    with pytest.raises(StageError, match=f"{fewer}: no prompt {read(prompts, PROMPTS)['prompt_id'][0]}"):
        judge.main(judge_args(tiny_model_dir, fewer, given))


def judged_files(prompts: Path, texts: dict[int, list[str]]) -> dict[str, Path]:
    """Candidates of the first prompts (one each) with the given judgements, scored by the score stage."""
    folder = prompts.parent
    given = candidate_rows(prompts, ["hello there"] * len(texts), ["stop"] * len(texts))
    ids = read(given, CANDIDATES).select("prompt_id", "candidate_id").rows()
    rows = [
        {
            "prompt_id": ids[number][0],
            "candidate_id": ids[number][1],
            "vote": vote,
            "seed": 0,
            "text": text,
            "token_ids": [],
            "tokens": 0,
            "finish_reason": "stop",
        }
        for number, said in texts.items()
        for vote, text in enumerate(said)
    ]
    files = {name: folder / f"{name}.parquet" for name in ("judgements", "votes", "scores")}
    write(frame(JUDGEMENTS, rows), files["judgements"], JUDGEMENTS, {})
    score.main(score.Args(judgements=[files["judgements"]], votes=files["votes"], scores=files["scores"]))
    assert read(files["votes"], VOTES).height == len(rows)
    assert read(files["scores"], SCORES).height == len(texts)
    return {"candidates": given, **files}


def meta_args(model: Path, prompts: Path, files: dict[str, Path], name: str, **more: Any) -> meta_judge.Args:
    folder = prompts.parent
    source = template(folder, "{{ conversation }}|{{ response }}|A: {{ judgement_a }}|B: {{ judgement_b }}")
    values = {"template": source, "sampling": SAMPLING, "engine": ENGINE, "model": model, "prompts": prompts}
    lists = {"candidates": [files["candidates"]], "judgements": [files["judgements"]]}
    paths = {"votes": files["votes"], "scores": files["scores"]}
    outputs = {"output": folder / f"{name}.parquet", "model_inputs": folder / f"{name}_inputs.parquet"}
    return meta_judge.Args(**{**values, **lists, **paths, **outputs, **more})


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
    files = judged_files(prompts, {0: ["good. Score: 3", "x" * 200 + " Score: 1", "bad. Score: 2"]})
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
    assert "4 over-long comparisons not asked" in capsys.readouterr().err


def test_meta_judge_refuses_missing_judgements(tiny_model_dir: Path, prompts: Path) -> None:
    files = judged_files(prompts, {0: ["good. Score: 3", "bad. Score: 1"]})
    fewer = prompts.parent / "fewer.parquet"
    write(read(files["judgements"], JUDGEMENTS)[1:], fewer, JUDGEMENTS, {})
    with pytest.raises(StageError, match="is missing; give all"):
        meta_judge.main(meta_args(tiny_model_dir, prompts, {**files, "judgements": fewer}, "verdicts"))
    assert not (prompts.parent / "verdicts.parquet").exists()
