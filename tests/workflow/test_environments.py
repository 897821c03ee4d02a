"""Each kind of rule runs in its own environment; which one decides nothing."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.workflow_run import ROOT, Run

pytestmark = pytest.mark.slow

PYTHON = """#!/bin/sh
echo "$CUDA_VISIBLE_DEVICES|$PYTHONPATH|$*" >> {calls}
exec {python} "$@"
"""
APPTAINER = """#!/bin/bash
[ "$1" = --version ] && echo "apptainer version 1.3.0" && exit
echo "$*" >> {calls}
export APPTAINER_CONTAINER=image SINGULARITY_CONTAINER=image PATH={inside}:/usr/bin:/bin
exec bash -c "${{@: -1}}"
"""
"""Runs a command as Snakemake hands it over; in the image there is a `python` of its own."""
FEW: dict[str, Any] = {"eft": {"test_fraction": 0.9, "votes": 1}}


def script(path: Path, text: str, **values: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(**values))
    path.chmod(0o755)
    return path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """An environment whose `python` notes what it is started with, in `calls` beside it."""
    return script(tmp_path / "own/bin/python", PYTHON, calls=tmp_path / "own/calls", python=sys.executable)


def plan(run: Run, *arguments: str, **overlay: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    command = run.command("-n", "-p", *arguments, **overlay)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_virtual_environment_is_that_of_its_kind_alone(
    tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, where = Run(tmp_path, FEW), {"generate": {"python": str(own)}}
    monkeypatch.setenv("META_REWARDING_GPUS", "3")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    target = f"{run.path}/eft/judgements/000.parquet"
    run.snakemake("--", target, environments=where)
    first, second = (call.split("|") for call in (own.parents[1] / "calls").read_text().splitlines())
    assert first[2].startswith("-m stages.contracts.gpus 1 python -m stages.judge --model ")
    assert second[0] == "0"
    assert second[1].split(":")[0] == str(ROOT)
    assert second[2].startswith("-m stages.judge --model ")
    other = {"generate": {"container": "image"}, "train": {"python": "/x/bin/python"}, "runtime": "pyxis"}
    assert "Nothing to be done" in run.snakemake("-n", "--", target, environments=other)


def test_a_container_is_run_by_snakemake_and_has_a_python_of_its_own(
    tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, calls, image = Run(tmp_path, FEW), tmp_path / "calls", tmp_path / "generate.sif"
    image.touch()
    script(tmp_path / "bin/apptainer", APPTAINER, calls=calls, inside=own.parent)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    where, target = {"generate": {"container": str(image)}}, f"{run.path}/eft/judgements/000.parquet"
    refused = plan(run, environments=where)
    assert refused.returncode != 0
    assert (
        "environments.generate.container needs --software-deployment-method apptainer"
        in refused.stdout + refused.stderr
    )
    by_apptainer = ("--software-deployment-method", "apptainer", "--", target)
    run.snakemake(*by_apptainer, environments=where)
    assert [f" {image} " in call for call in calls.read_text().splitlines() if call.startswith("exec")] == [True]
    assert "-m stages.judge --model " in (own.parents[1] / "calls").read_text()
    other = {"generate": {"container": str(tmp_path / "another.sif")}, "data": {"container": str(image)}}
    assert "Nothing to be done" in run.snakemake("-n", *by_apptainer, environments=other)


def test_pyxis_runs_a_container_in_a_step_of_the_job(tmp_path: Path) -> None:
    run = Run(tmp_path, FEW)
    where = {"generate": {"container": "nvcr.io#x/y:1"}, "train": {"container": "train.sqsh"}, "runtime": "pyxis"}
    told = plan(run, environments=where | {"mounts": ["/models"]}, megatron={"nodes": 2}).stdout
    folders = sorted({str(ROOT), str(run.path.parent), "/models"})
    container = f"--container-mounts={','.join(f'{folder}:{folder}' for folder in folders)} --container-workdir={ROOT} "
    container += "--container-env=PYTHONPATH "
    step = "srun --overlap --nodes 1 --ntasks 1 --cpus-per-task 1 --gpus 1 '--container-image=nvcr.io#x/y:1' "
    assert f"{step}{container}python -m stages.contracts.gpus 1 python -m stages.judge --model" in told
    step = "srun --nodes 2 --ntasks-per-node 1 --cpu-bind none --kill-on-bad-exit=1 "
    ranks = f"{step}--container-image=train.sqsh {container}torchrun --nnodes 2 "
    assert ranks in told
    assert ": python -m stages.score " in told


def test_the_gpus_of_a_server_are_taken_by_the_server(tmp_path: Path) -> None:
    server = {"kind": "vllm", "command": "serve {model} {host} {port}", "gpus": 3}
    told = plan(Run(tmp_path, FEW), engine={"backend": "openai", "server": server}).stdout
    assert ": python -m stages.judge --model " in told
    assert "stages.contracts.gpus 2 python -m stages.train " in told
    assert "stages.contracts.gpus 3" not in told
