"""The TensorRT-LLM engine, opened on the double of the library."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stages.config import EngineSettings
from stages.engines import open_engine
from stages.engines.trtllm import TrtllmEngine
from tests.support.trtllm_double import install
from tests.support.trtllm_world import World

Open = Callable[..., Any]


def opener(model: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """`engine(world, **trtllm settings)` opens the engine on the double."""

    @contextmanager
    def opened(
        world: World, max_sequence_length: int = 64, stall_seconds: float = 60, **trtllm: Any
    ) -> Iterator[TrtllmEngine]:
        install(monkeypatch, world)
        lengths = {"max_sequence_length": max_sequence_length, "stall_seconds": stall_seconds}
        settings = EngineSettings(backend="trtllm", **lengths, trtllm=trtllm)
        with open_engine(model, settings) as it:
            assert isinstance(it, TrtllmEngine)
            yield it

    return opened
