"""The TensorRT-LLM engine, which two modules open on a double of the library."""

from pathlib import Path

import pytest

from tests.support.trtllm_engine import Open, opener
from tests.support.trtllm_world import checkpoint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return checkpoint(tmp_path)


@pytest.fixture
def engine(model: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """`engine(world, **trtllm settings)` opens the engine on the double."""
    return opener(model, monkeypatch)
