"""The self-test of the TensorRT-LLM engine: on the double every verdict is reached, and every one can fail."""

import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stages.config import EngineSettings
from stages.engines import trtllm_points as points
from stages.engines import trtllm_self_test as it
from stages.engines.trtllm import TrtllmEngine
from stages.engines.trtllm_watch import Arrivals
from stages.prompting.chat import ChatTokenizer
from tests.support.trtllm_double import install
from tests.support.trtllm_world import EOS, Logprob, RequestError, World, always

SECONDS = 0.2
"""What a long answer takes: longer than the watchdog of the self-test waits."""
UNSEEDED = random.Random(0)
STATES = {"ok", "FAILED", "unknown"}


class Left(BaseException):
    """The process would have ended here."""


def settings(sampler: str = "auto") -> EngineSettings:
    own = {**it.SMALL["trtllm"], "sampler": sampler, "max_batch_size": 4}
    return EngineSettings(**{**it.SMALL, "trtllm": own, "stall_seconds": 5})


def lines(printed: str) -> dict[str, str]:
    """The state of each point."""
    found = {line[8:].split(":")[0]: line[:8].strip() for line in printed.splitlines()}
    assert set(found.values()) <= STATES
    return found


@pytest.mark.parametrize(
    ("version", "sampler", "unknown"),
    [
        ("1.0.0", "auto", {"log probabilities"}),
        ("1.2.1", "TorchSampler", set()),
        ("1.2.1", "TRTLLMSampler", {"log probabilities"}),
        ("1.3.0rc26", "auto", set()),
    ],
)
def test_a_sound_library_passes(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    version: str,
    sampler: str,
    unknown: set[str],
) -> None:
    install(monkeypatch, World(version=version, seconds=SECONDS))
    assert it.self_test(model, settings(sampler))
    found = lines(capsys.readouterr().out)
    assert {point for point, state in found.items() if state != "ok"} == unknown
    assert len(found) == len(points.POINTS) + 2


def unseeded(_prompt: Sequence[int], _rng: random.Random | None) -> list[int]:
    """A model that listens neither to seeds nor to the temperature."""
    return [*(UNSEEDED.randrange(10, 1000) for _ in range(3)), EOS]


def fails_on_long(bench: points.Bench, world: World) -> None:
    world.failures[bench.long_prompt(2048 - 16)] = RequestError("KV cache")


def takes_any_length(bench: points.Bench, _world: World) -> None:
    bench.engine.llm.max_seq_len = 10**6


def fails_always(bench: points.Bench, world: World) -> None:
    world.failures[bench.prompt] = RequestError("bad request")


Change = Callable[[points.Bench, World], None]
WRONG: list[tuple[str, dict[str, Any], str, Change | None]] = [
    ("greedy", {"write": unseeded}, "auto", None),
    ("samples_differ", {"write": always(20, 21, EOS)}, "auto", None),
    ("temperature_acts", {"write": unseeded}, "auto", None),
    ("temperature_acts", {"write": always(20, 21, EOS)}, "auto", None),
    ("seeds", {"write": unseeded}, "TRTLLMSampler", None),
    ("end_of_sequence", {"override": {"token_ids": [10]}}, "TorchSampler", None),
    ("end_of_sequence", {"override": {"token_ids": [10, EOS]}}, "TRTLLMSampler", None),
    ("finish_reason", {"override": {"finish_reason": "cancelled"}}, "auto", None),
    ("stop_ids", {"override": {"stop_reason": None}}, "auto", None),
    ("log_probabilities", {"override": {"logprobs": [{10: Logprob(-5.0)}, {11: Logprob(-5.0)}]}}, "auto", None),
    ("log_probabilities", {"write": always(-20, EOS)}, "TorchSampler", None),
    ("chunked_prefill", {}, "auto", fails_on_long),
    ("too_long_a_prompt", {}, "auto", takes_any_length),
    ("block_reuse", {"caches": False}, "auto", None),
    ("text", {"override": {"text": "tidied"}}, "auto", None),
    ("a_crowd", {}, "auto", fails_always),
    ("stop_ids", {}, "auto", fails_always),
]


@pytest.mark.parametrize(("point", "wrong", "sampler", "change"), WRONG)
def test_each_verdict_can_fail(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    point: str,
    wrong: dict[str, Any],
    sampler: str,
    change: Change | None,
) -> None:
    world = World(**wrong)
    install(monkeypatch, world)
    with TrtllmEngine(model, settings(sampler)) as engine:
        bench = points.Bench(engine)
        if change:
            change(bench, world)
        assert it.verdict(bench, points.POINTS.index(getattr(points, point))) is False
    assert capsys.readouterr().out.startswith(f"FAILED  {point.replace('_', ' ')}: ")


def test_every_point_but_the_versions_was_seen_to_fail() -> None:
    assert {point for point, *_ in WRONG} == {point.__name__ for point in points.POINTS} - {"versions", "watchdog"}


def test_a_watchdog_that_tells_nothing_fails(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, World(seconds=SECONDS))
    with TrtllmEngine(model, settings()) as engine:
        monkeypatch.setattr(points, "Arrivals", lambda _: Arrivals(5))
        assert points.watchdog(points.Bench(engine)) == (False, "an answer came within a millisecond")


@pytest.mark.parametrize(
    ("wrong", "point", "seen"),
    [
        ({"write": always(20, 21, 9)}, "end_of_sequence", "did not end with the end id"),
        ({"write": always(EOS)}, "finish_reason", "'stop' after 1 of 1"),
        ({"write": always(EOS)}, "stop_ids", "has too little"),
        ({"logprob_lacks": {10, 11, EOS}}, "log_probabilities", "0 told twice"),
        ({"write": always(20, 21, EOS)}, "seeds", "not honoured"),
    ],
)
def test_what_does_not_show_is_unknown(
    model: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any], point: str, seen: str
) -> None:
    install(monkeypatch, World(**wrong))
    with TrtllmEngine(model, settings("TorchSampler")) as engine:
        holds, words = getattr(points, point)(points.Bench(engine))
    assert holds is None
    assert seen in words


def test_the_command_tells_and_fails(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(seconds=SECONDS)
    install(monkeypatch, world)
    small = ["--settings", '{"trtllm": {"max_batch_size": 2}, "stall_seconds": 5}']
    for caches, code in [(True, 0), (False, 1)]:
        world.caches = caches
        with pytest.raises(SystemExit) as ended:
            it.main(["--self-test", str(model), *small])
        assert ended.value.code == code
        assert lines(capsys.readouterr().out)["block reuse"] == ("ok" if caches else "FAILED")
    (model / "config.json").unlink()
    with pytest.raises(SystemExit):
        it.main(["--self-test", str(model)])
    assert capsys.readouterr().out.startswith("FAILED  start: ")


@pytest.mark.parametrize("wrong", [{"shutdown_hangs": True}, {"dies_at": True}])
def test_an_engine_that_hangs_ends_the_self_test(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: dict[str, Any]
) -> None:
    def end(_code: int) -> None:
        raise Left

    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(it, "SHUTDOWN_SECONDS", 0.1)
    world = World(seconds=SECONDS, shutdown_hangs="shutdown_hangs" in wrong)
    install(monkeypatch, world)
    quick = settings().model_copy(update={"stall_seconds": 1.0})
    if "dies_at" in wrong:
        question = ChatTokenizer(model).encode([{"role": "user", "content": points.QUESTION}])
        world.dies_at = tuple((question * 300)[:300])
    with pytest.raises(Left):
        it.self_test(model, quick)
    found = lines(capsys.readouterr().out)
    if "dies_at" in wrong:
        assert (found["block reuse"], found["text"], found["watchdog"]) == ("FAILED", "unknown", "unknown")
    else:
        assert found["shutdown"] == "FAILED"


def test_it_is_a_command(model: Path) -> None:
    command = [sys.executable, "-m", "stages.engines.trtllm", "--self-test", str(model)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.stdout.startswith("FAILED  start: engine.backend is 'trtllm', but tensorrt_llm cannot be imported")
    assert (done.returncode, done.stderr) == (1, "")
