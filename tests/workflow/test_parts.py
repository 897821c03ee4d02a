"""Parts of the workflow: the guard of the oracle, and input that is refused."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.support.workflow_run import GUARD, NO_EFT, ROOT, Run

pytestmark = pytest.mark.slow


def test_the_loop_stages_refuse_the_oracle():
    """The guard of all runs here is real: a stage other than `evaluate` that reads the oracle fails."""
    script = "import sys; sys.path.insert(0, 'examples/tinyworld'); import world"
    command, environment = [sys.executable, "-c", script], {**os.environ, **GUARD}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "the loop must not read the oracle" in done.stderr


def test_bad_input_is_one_clear_line_and_overwrites_nothing(tmp_path):
    run = Run(tmp_path, NO_EFT)
    model = tmp_path / "model"
    shutil.copytree(ROOT / "examples/tinyworld/base", model)
    (model / "tokenizer.json").unlink()
    command = run.command("--", f"{run.path}/models/0/manifest.json", run={"model": str(model)})
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **GUARD}, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "tokenizer.json: no such file" in done.stdout + done.stderr
    assert not (run.path / "models/0/manifest.json").exists()
    typo = run.command("-n", pairs={"lenght_control": 0.1})
    done = subprocess.run(typo, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "unknown key 'pairs.lenght_control'; did you mean 'length_control'?" in done.stdout + done.stderr
