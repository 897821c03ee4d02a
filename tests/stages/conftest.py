"""What several stages start from."""

from pathlib import Path

import pytest

from tests.support import synthetic_run
from tests.support.pairs_world import World
from tests.support.preference_task import logprobs, save_preferences
from tests.support.report_page import Page, write_page


@pytest.fixture(scope="session")
def preferences(tiny_model_dir, tmp_path_factory):
    """Pairs and their log-probabilities under the tiny model."""
    folder = tmp_path_factory.mktemp("preferences")
    pairs = save_preferences(folder / "pairs.parquet")
    return {"model": tiny_model_dir, "pairs": pairs, "reference_logprobs": logprobs(tiny_model_dir, pairs, folder)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """The inputs of the stage `pairs`, still empty."""
    return World(tmp_path)


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up run, for reading alone."""
    return synthetic_run.build(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def html(run_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its report."""
    output = tmp_path_factory.mktemp("page") / "report.html"
    write_page(run_directory, output)
    return output.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def page(html: str) -> Page:
    """Its report as a browser sees it."""
    return Page(html)
