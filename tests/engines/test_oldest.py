"""Generation in an environment of its own: the oldest versions that are supported, neither torch nor Transformers."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from stages.contracts.artifacts import read
from stages.tables import CANDIDATES
from tests.support.records import turns, write_prompts

ROOT = Path(__file__).parents[2]
IMPORTS = """
import importlib, sys
for name in ("candidates", "create", "judge", "meta_judge", "evaluate", "engines.openai", "engines.trtllm"):
    importlib.import_module(f"stages.{name}")
print(sorted({"torch", "transformers", "snakemake"} & sys.modules.keys()))
"""
pytestmark = pytest.mark.slow


def done(*command: object) -> str:
    process = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with what `containers/generate.txt` asks for, as old as it allows."""
    folder = tmp_path_factory.mktemp("oldest")
    done(sys.executable, "-m", "venv", folder)
    wanted = ["-r", "containers/generate.txt", "-c", "containers/generate-oldest.txt"]
    done(folder / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted)
    return folder / "bin/python"


def test_every_generating_stage_and_engine_of_servers_is_importable(oldest: Path) -> None:
    assert done(oldest, "-c", IMPORTS).strip() == "[]"
    assert done(oldest, "-c", "import numpy; print(numpy.__version__)").strip() == "1.26.4"


def test_a_stage_generates_through_a_server_what_the_torch_engine_generates(
    oldest: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", [turns(f"Say hello {number}") for number in range(6)])
    server = f"{sys.executable} -m tests.support.llama_server {{model}} {{host}} {{port}} 4"
    engines = {
        oldest: ["--engine.backend", "openai", "--engine.server.kind", "llamacpp", "--engine.server.command", server],
        Path(sys.executable): ["--engine.device", "cpu", "--engine.dtype", "float32"],
    }
    for number, (python, engine) in enumerate(engines.items()):
        stage = [python, "-m", "stages.candidates", "--model", tiny_model_dir, "--prompts", prompts, "--iteration", 1]
        sampling = ["--samples", 2, "--sampling.temperature", 0, "--sampling.top-p", 1, "--sampling.max-tokens", 8]
        limits = ["--seed", 0, "--max-cut-share", 1, "--engine.max-sequence-length", 128, "--engine.server.model", "m"]
        files = ["--output", tmp_path / f"{number}.parquet", "--model-inputs", tmp_path / f"{number}_inputs.parquet"]
        done(*stage, *sampling, *limits, *files, *engine)
    by_server, by_torch = (read(tmp_path / f"{number}.parquet", CANDIDATES) for number in (0, 1))
    assert by_server.height == 12
    told = pl.all().exclude("logprob")  # llama.cpp tells those of greedy decoding at another temperature
    assert by_server.select(told).equals(by_torch.select(told))
