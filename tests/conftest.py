"""Shared fixtures: a tiny model directory with everything that a real one has."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.tiny_model import write_llama

# A busy machine must not fail a test that is right.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


WAIT = {"test_interrupted_jobs.py", "test_reruns.py"}  # for the run that test_pipeline.py begins with


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On several workers, which take one file after the other: first the files with most slow tests, then those
    that wait for what another worker runs, then the fast ones."""
    if hasattr(config, "workerinput"):
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: (not slow[item.path], item.path.name in WAIT, -slow[item.path]))


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama (hidden 64, 2 layers, grouped-query attention) as a Hugging Face directory."""
    return write_llama(tmp_path_factory.mktemp("tiny_model"))
