"""What a training loads before it trains."""

import subprocess
import sys

import pytest
import torch

LOADED = """
import sys, torch
compiler = torch.compile
import stages.train
assert torch.compile is compiler
print(*(name for name in ("torch._inductor.compile_fx", "torch._dynamo", "wandb") if sys.modules.get(name)))
import wandb
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU nothing is left out")
def test_a_training_on_cpus_loads_no_compiler_and_no_logger_that_nobody_asked_for():
    pytest.importorskip("wandb")
    command = [sys.executable, "-W", "ignore", "-c", LOADED]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
