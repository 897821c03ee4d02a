"""A TensorRT-LLM engine that dies: the stage ends with one line, keeps what was answered, and waits for nobody."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from stages.contracts.errors import StageError
from stages.engines import trtllm, trtllm_watch
from stages.engines.journal import Journal
from tests.engines.test_trtllm import SAMPLED, votes
from tests.support.trtllm_engine import Open
from tests.support.trtllm_world import World, checkpoint

ROOT = Path(__file__).parents[2]


class Left(BaseException):
    """The process would have ended here."""


@pytest.fixture(autouse=True)
def _no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr(os, "_exit", end)


def generated(it: Any, folder: Path, count: int = 3) -> None:
    """Complete prompts (5,), (6,), ... into a journal."""
    for _ in Journal(folder, "key").recorded(it.generate(votes(*[(5 + index,) for index in range(count)]), SAMPLED)):
        pass


def test_a_dead_worker_ends_the_stage_and_costs_no_answer(
    engine: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Worker and `shutdown()` hang from the fifth request on; of two in flight the older may have been answered."""
    world = World(dies_at=(9,))
    with pytest.raises(Left), engine(world, stall_seconds=1, max_batch_size=1) as it:
        generated(it, tmp_path / "journal", count=12)
    kept = Journal(tmp_path / "journal", "key").completions().height
    assert kept in (3, 4)
    told = capsys.readouterr().err
    assert told.startswith("error: no answer for 1 seconds (engine.stall_seconds) with 2 requests in flight")
    assert told.count("\n") == 1
    assert world.shutdowns == 0


def test_slow_answers_are_waited_for_as_long_as_any_comes(engine: Open) -> None:
    """The limit is for the time between two answers, not for one of them."""
    gates = {(5 + index,): Event() for index in range(4)}
    with engine(World(held={**gates}), stall_seconds=1) as it:
        completions = it.generate(votes(*gates), SAMPLED)
        started = time.monotonic()
        for gate in gates.values():
            time.sleep(0.3)
            gate.set()
            next(completions)
    assert time.monotonic() - started > 1


def test_an_error_of_the_engine_ends_the_stage(
    engine: Open, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = World(failures={(6,): MemoryError("CUDA out of memory")})
    with pytest.raises(Left), engine(world) as it:
        generated(it, tmp_path)
    assert "TensorRT-LLM stopped working (MemoryError: CUDA out of memory); see its log" in capsys.readouterr().err


def test_an_engine_that_takes_no_more_requests_ends_the_stage(engine: Open, tmp_path: Path) -> None:
    with ExitStack() as stack:
        it = stack.enter_context(engine(World()))
        it.llm.shutdown()
        with pytest.raises(StageError, match="LLM is shutting down") as raised:
            generated(it, tmp_path)
        with pytest.raises(Left):
            stack.__exit__(StageError, raised.value, None)


def test_an_error_of_somebody_else_shuts_the_engine_down(engine: Open) -> None:
    world = World()
    with pytest.raises(StageError, match="disk full"), engine(world):
        raise StageError("disk full")
    assert world.shutdowns == 1


@pytest.mark.parametrize("error", [None, StageError("disk full"), KeyError("a bug")])
def test_a_shutdown_that_hangs_ends_the_process(
    engine: Open, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception | None
) -> None:
    monkeypatch.setattr(trtllm, "SHUTDOWN_SECONDS", 0.1)
    opened = engine(World(shutdown_hangs=True))
    opened.__enter__()
    with pytest.raises(Left):
        opened.__exit__(type(error) if error else None, error, None)
    words = {"NoneType": "does not shut down", "StageError": "error: disk full\n", "KeyError": "Traceback"}
    assert words[type(error).__name__] in capsys.readouterr().err


def test_a_model_that_does_not_load_ends_the_process(engine: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[BaseException] = []
    world = World(loads=Event())

    def leave(error: BaseException) -> None:
        left.append(error)
        world.loads.set()

    monkeypatch.setattr(trtllm_watch, "leave", leave)
    with engine(world, load_seconds=0.1):
        pass
    assert "not loaded after 0.1 seconds (engine.trtllm.load_seconds)" in str(left[0])
    with engine(World(), load_seconds=0.1):
        time.sleep(0.2)
    assert len(left) == 1, "only loading is limited"


PROGRAM = """
import sys
from pathlib import Path
import polars as pl
import pytest
from stages.config import EngineSettings, Sampling
from stages.contracts.cli import errors_told
from stages.engines.resumable import Generator
from tests.support.trtllm_double import install
from tests.support.trtllm_world import World

install(pytest.MonkeyPatch(), World(dies_at=(7,)))
asked = pl.DataFrame({"request_id": ["a", "b", "c"], "seed": [1, 2, 3], "prompt_token_ids": [[5], [6], [7]]})
settings = EngineSettings(backend="trtllm", stall_seconds=1, max_sequence_length=64)
with errors_told(), Generator(Path(sys.argv[1]), settings) as generator:
    generator.complete(asked, Sampling(max_tokens=8), Path(sys.argv[1]) / "out.parquet")
"""


def test_a_process_whose_worker_died_is_gone(tmp_path: Path) -> None:
    """Though threads still wait, and the library's own end would, too."""
    arguments = [sys.executable, "-c", PROGRAM, str(checkpoint(tmp_path))]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: no answer for 1 seconds")
    assert "Traceback" not in done.stderr
