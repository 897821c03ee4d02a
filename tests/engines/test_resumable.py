"""The resumable driver: what a kill leaves, and what is asked again."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest

from stages.config import EngineSettings, Sampling
from stages.contracts.errors import StageError
from stages.engines import journal
from stages.engines import resumable as generation
from stages.engines.protocol import Completion, Request, failed
from stages.engines.resumable import Generator
from tests.support.fake_engine import FakeEngine, completion
from tests.support.tiny_model import CHAT_TEMPLATE, write_tokenizer

ENGINE = EngineSettings(max_sequence_length=128, device="cpu")
SAMPLING = Sampling(max_tokens=8)
Answers = dict[str, tuple[str, str]]


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "WAITS", (0.0, 0.0))


def engine(answers: Answers | None = None, **more: Any) -> FakeEngine:
    """Says what it is told, `hello <seed>` otherwise."""

    def reply(request: Request) -> Completion:
        text, reason = (answers or {}).get(request.request_id, (f"hello {request.seed}", "stop"))
        if reason == "error":
            return Completion(request.request_id, "", [], reason, -1.0, "no luck")
        return completion(request, text)

    return FakeEngine(reply, **more)


def ids(engine: FakeEngine) -> list[str]:
    """What it was asked."""
    return [request.request_id for request in engine.asked]


def asked(n: int = 10) -> pl.DataFrame:
    rows = {"prompt_id": ["p"] * n, "request_id": [f"r{i}" for i in range(n)], "seed": list(range(n))}
    return pl.DataFrame({**rows, "prompt_token_ids": [[1, 2, i % 2] for i in range(n)]})


def generate(
    double: FakeEngine,
    output: Path,
    data: pl.DataFrame,
    sampling: Sampling = SAMPLING,
    settings: EngineSettings = ENGINE,
    weights: str = "one",
    chat_template: str = CHAT_TEMPLATE,
) -> pl.DataFrame:
    """The completions of a model with these weights, whose engine is the double."""
    model = output.parent / "model"
    model.mkdir(exist_ok=True)
    (model / "model.safetensors").write_text(weights)
    write_tokenizer(model, chat_template)
    with patch.object(generation, "open_engine", lambda *_: double), Generator(model, settings) as generator:
        return generator.complete(data, sampling, output)


def test_a_killed_run_continues_where_its_journal_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D18, G1: responses of a window were lost and drawn anew; resuming itself crashed."""
    monkeypatch.setattr(journal, "CHUNK_ROWS", 3)
    output = tmp_path / "out.parquet"
    whole = generate(engine(), tmp_path / "other.parquet", asked())
    first = engine(dies_before=7)
    with pytest.raises(RuntimeError):
        generate(first, output, asked())
    second = engine()
    resumed = generate(second, output, asked())
    assert resumed.equals(whole)
    assert sorted(ids(first) + ids(second)) == sorted(asked()["request_id"])
    untouched = engine()
    assert generate(untouched, output, asked()).equals(whole)
    assert untouched.asked == []


def test_a_part_lost_in_a_kill_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """G2: a step that was written in part lost rows, or broke the file."""
    monkeypatch.setattr(journal, "CHUNK_ROWS", 4)
    output = tmp_path / "out.parquet"
    whole = generate(engine(), output, asked())
    parts = sorted(tmp_path.glob(".out.parquet.journal-*/part-*.parquet"))
    assert [pl.read_parquet(part).height for part in parts] == [4, 4, 2]
    parts[-1].rename(parts[-1].with_name(".part-00002.parquet.partial"))
    second = engine()
    assert generate(second, output, asked()).equals(whole)
    assert ids(second) == pl.Series(["r8", "r9"]).to_list()


@pytest.mark.parametrize("change", ["sampling", "tokens", "seed", "model"])
def test_a_journal_of_other_work_is_not_used_but_removed(tmp_path: Path, change: str) -> None:
    output = tmp_path / "out.parquet"
    generate(engine(), output, asked())
    old = set(tmp_path.glob(".out.parquet.journal-*"))
    data = asked()
    if change == "tokens":
        data = data.with_columns(prompt_token_ids=pl.col("prompt_token_ids").list.reverse())
    if change == "seed":
        data = data.with_columns(seed=pl.col("seed") + 1)
    sampling = Sampling(max_tokens=9) if change == "sampling" else SAMPLING
    second = engine()
    generate(second, output, data, sampling, weights="other" if change == "model" else "one")
    assert len(second.asked) == 10
    assert not old & set(tmp_path.glob(".out.parquet.journal-*"))


def test_engine_settings_of_speed_alone_keep_the_journal(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    generate(engine(), output, asked())
    faster = ENGINE.model_copy(update={"threads": 8, "batch_tokens": 1})
    second = engine()
    generate(second, output, asked(), settings=faster)
    assert second.asked == []


def test_failed_requests_are_asked_again_within_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Flaky(FakeEngine):
        """Each request fails the first time."""

        def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
            known = set(ids(self))
            for one in super().generate(requests, sampling):
                yield one if one.request_id in known else failed(by_id[one.request_id], "no luck")

    by_id = {f"r{i}": Request(f"r{i}", (1, 2, i % 2), i) for i in range(10)}
    flaky = Flaky(engine().reply)
    assert generate(flaky, tmp_path / "out.parquet", asked()).equals(
        generate(engine(), tmp_path / "b.parquet", asked())
    )
    assert sorted(ids(flaky)) == sorted(2 * asked()["request_id"].to_list())
    assert "10 requests failed; they are asked again in 0 seconds" in capsys.readouterr().err


def test_what_fails_again_and_again_ends_the_stage_above_the_share_and_is_tried_in_a_rerun(tmp_path: Path) -> None:
    output = tmp_path / "out.parquet"
    with pytest.raises(StageError, match=r"2 of 20 requests failed \(engine\.max_failed_share\); .* r3: no luck"):
        generate(engine({"r3": ("", "error"), "r4": ("", "error")}), output, asked(20))
    retry = engine({"r3": ("", "error")})
    found = generate(retry, output, asked(20))
    assert Counter(ids(retry)) == {"r3": 3, "r4": 1}
    assert found.filter(finish_reason="error")["request_id"].to_list() == ["r3"]


def test_one_failure_is_allowed_in_a_small_shard_and_no_more(tmp_path: Path) -> None:
    assert generate(engine({"r3": ("", "error")}), tmp_path / "out.parquet", asked()).height == 10
    with pytest.raises(StageError, match="2 of 10 requests failed"):
        generate(engine({"r3": ("", "error"), "r4": ("", "error")}), tmp_path / "b.parquet", asked())


def test_nothing_more_is_asked_where_everything_fails(tmp_path: Path) -> None:
    broken = engine({f"r{i}": ("", "error") for i in range(200)})
    with pytest.raises(StageError, match="the first 50 requests all failed, the last with: no luck"):
        generate(broken, tmp_path / "out.parquet", asked(200))
    assert len(broken.asked) == 50


def test_what_is_too_long_is_not_asked_and_counts_as_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shard of 14 with one of them failed at 5 %, where one of 60 did not."""
    long = [1] * (ENGINE.max_sequence_length - SAMPLING.max_tokens + 1)
    some = pl.col("request_id").is_in(["r0", "r1", "r2"])
    data = asked().with_columns(prompt_token_ids=pl.when(some).then(pl.lit(long)).otherwise("prompt_token_ids"))
    double = engine()
    found = generate(double, tmp_path / "out.parquet", data)
    assert sorted(ids(double)) == [f"r{i}" for i in range(3, 10)]
    errors = found.filter(finish_reason="error")
    assert errors["request_id"].to_list() == ["r0", "r1", "r2"]
    assert "prompt (121 tokens) and answer (up to 8) exceed engine.max_sequence_length (128)" in errors["error"][0]
    assert "3 of 10 requests were refused; the first is r0" in capsys.readouterr().err
    with pytest.raises(StageError, match="10 of 10 requests were refused"):
        generate(engine(), tmp_path / "b.parquet", asked().with_columns(prompt_token_ids=pl.lit(long)))


def flipped(data: bytes) -> bytes:
    """The same with another bit within the rows."""
    return data[:50] + bytes([data[50] ^ 4]) + data[51:]


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"PAR1" + data, flipped]
)
def test_a_part_that_cannot_be_read_is_asked_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[bytes], bytes],
) -> None:
    """As a power cut on a network file system leaves it; the parts around it stay."""
    monkeypatch.setattr(journal, "CHUNK_ROWS", 4)
    output = tmp_path / "out.parquet"
    whole = generate(engine(), output, asked())
    part = sorted(tmp_path.glob(".out.parquet.journal-*/part-*.parquet"))[1]
    part.write_bytes(damage(part.read_bytes()))
    os.utime(part, ns=(1, 1))  # within a clock's tick it would be taken for the part before
    second = engine()
    assert generate(second, output, asked()).equals(whole)
    assert sorted(ids(second)) == ["r4", "r5", "r6", "r7"]
    assert f"{part}: damaged" in capsys.readouterr().err
    third = engine()
    assert generate(third, output, asked()).equals(whole)
    assert third.asked == []


def test_whether_seeds_were_honoured_survives_a_kill(tmp_path: Path) -> None:
    """A run that began with an engine that honours seeds, and ended with one that does not, cannot be drawn again."""
    deaf, output = engine(), tmp_path / "out.parquet"
    deaf.seeds_honoured = False
    with pytest.raises(RuntimeError):
        generate(engine(dies_before=3), output, asked())
    generate(deaf, output, asked())
    with (
        patch.object(generation, "open_engine", lambda *_: engine()),
        Generator(tmp_path / "model", ENGINE) as generator,
    ):
        generator.complete(asked(), SAMPLING, output)
        assert generator.facts == {"model": generator.digest, "seeds_honoured": False, "exact_tokens": True}


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"server": {"retries": 1, "concurrency": 1, "url": "http://localhost:2"}}, True),
        ({"server": {"model": "another"}}, False),
        ({"server": {"kind": "sglang"}}, False),
        ({"trtllm": {"sampler": "TorchSampler"}}, True),
        ({"threads": 4, "max_failed_share": 0.5}, True),
        ({"dtype": "bfloat16"}, False),
    ],
)
def test_work_is_the_same_if_nothing_differs_that_decides_it(changed: dict[str, Any], same: bool) -> None:
    given: dict[str, Any] = {"backend": "openai", "server": {"kind": "vllm", "url": "http://localhost:1"}}
    other = {**given, **changed, "server": {**given["server"], **changed.get("server", {})}}
    first, second = (
        generation.work_digest([], SAMPLING, EngineSettings.model_validate(one), "model") for one in (given, other)
    )
    assert (first == second) == same


def test_an_engine_that_forgets_a_request_is_found_out(tmp_path: Path) -> None:
    class Forgetful(FakeEngine):
        def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
            yield from super().generate(requests[1:], sampling)

    with pytest.raises(StageError, match="no completion for 1 requests, first r0"):
        generate(Forgetful(engine().reply), tmp_path / "out.parquet", asked())


def test_duplicates_are_counted_and_many_of_them_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = generate(engine({f"r{i}": ("same", "stop") for i in range(5)}), tmp_path / "a.parquet", asked())
    assert generation.duplicates(found, "prompt_id") == 4
    assert "4 duplicates" in generation.summary(found, "prompt_id")
    assert "warning" not in capsys.readouterr().err
    found = generate(engine({f"r{i}": ("same", "stop") for i in range(6)}), tmp_path / "b.parquet", asked())
    assert generation.summary(found, "prompt_id").startswith("10 completions, ")
    assert "5 of 10 completions repeat" in capsys.readouterr().err
