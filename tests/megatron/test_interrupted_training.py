"""Training that is killed or told to stop, and in which a rank fails."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from stages import tables, train
from stages.contracts import cli
from stages.contracts.artifacts import read, write
from stages.contracts.schema import frame
from tests.probes.checkpoints import fail, interrupted_train
from tests.support.ranks import fork, under_agent


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def sft_flags(folder, model, **changes):
    """Nine steps of supervised training on ten conversations, into `folder`."""
    rows = [
        {
            "example_id": f"e{i}",
            "messages": [{"role": "user", "content": f"Say {i}"}, {"role": "assistant", "content": "hello " * (i + 1)}],
            "answer_token_ids": None,
            "prompt_loss_weight": 0.0,
        }
        for i in range(10)
    ]
    folder.mkdir(exist_ok=True)
    write(frame(tables.SFT_EXAMPLES, rows), folder / "examples.parquet", tables.SFT_EXAMPLES, {})
    settings = {
        **{"objective": "sft", "model": model, "examples": folder / "examples.parquet", "batch-size": 4, "epochs": 3},
        **{"output": folder / "model/manifest.json", "metrics": folder / "metrics.parquet"},
        **{"optimizer.learning-rate": 1e-3, "optimizer.warmup-steps": 2, "checkpoint-every-steps": 2, **changes},
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def outcome(folder):
    return load_file(folder / "model/model.safetensors"), read(folder / "metrics.parquet", tables.TRAIN_METRICS)


@pytest.fixture(scope="module")
def undisturbed(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    cli.run(train.Args, train.main, sft_flags(folder, tiny_model_dir))
    assert not (folder / "checkpoints").exists()
    return outcome(folder)


@pytest.mark.slow
def test_a_killed_training_ends_as_if_undisturbed(undisturbed, tiny_model_dir, tmp_path, capsys):
    """Killed in a step, and killed again while a checkpoint is written: same weights to the bit, same metrics."""
    flags = sft_flags(tmp_path, tiny_model_dir)
    checkpoints = tmp_path / "checkpoints"
    assert fork(interrupted_train, "SIGKILL", "step:7", *flags).codes == [-signal.SIGKILL]
    assert names(checkpoints) == ["step-00000004", "step-00000006"]
    assert fork(interrupted_train, "SIGKILL", "save:1", *flags).codes == [-signal.SIGKILL]
    assert names(checkpoints) == [".partial", "step-00000004", "step-00000006"]
    cli.run(train.Args, train.main, flags)
    assert "step-00000006: training goes on after step 6" in capsys.readouterr().err
    weights, metrics = outcome(tmp_path)
    assert all(torch.equal(weights[name], value) for name, value in undisturbed[0].items())
    assert metrics.equals(undisturbed[1])
    assert metrics["step"].max() == 9
    assert not checkpoints.exists()


@pytest.mark.slow
def test_sigterm_saves_and_another_layout_goes_on(undisturbed, tiny_model_dir, tmp_path):
    """torchrun is told to stop in step 3; one process finishes what two began."""
    flags = sft_flags(tmp_path, tiny_model_dir)
    done = under_agent(interrupted_train, "SIGTERM", "step:3", *flags, ranks=2)
    assert done.codes[0] not in (0, -signal.SIGKILL)
    assert done.printed.count("stopped by SIGTERM after step 3; rerun to go on") == 1
    assert names(tmp_path / "checkpoints") == ["step-00000002", "step-00000003"]
    cli.run(train.Args, train.main, flags)
    _, metrics = outcome(tmp_path)
    assert metrics.select("step", "metric").equals(undisturbed[1].select("step", "metric"))
    assert metrics["value"].to_list() == pytest.approx(undisturbed[1]["value"].to_list(), rel=1e-5, abs=1e-5)


@pytest.mark.slow
def test_torchrun_gives_its_ranks_the_grace_that_its_variable_says(tmp_path):
    """Ranks that need two seconds after SIGTERM, within a grace of none and of a minute."""
    script = tmp_path / "slow_to_stop.py"
    script.write_text(
        "import pathlib, signal, sys, time\n"
        "told = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: told.append(1))\n"
        "pathlib.Path(sys.argv[1], 'ready').touch()\n"
        "while not told: time.sleep(0.05)\n"
        "time.sleep(2)\n"
        "pathlib.Path(sys.argv[1], 'saved').touch()\n"
    )
    launches = {}
    for grace in ("0", "60"):
        (tmp_path / grace).mkdir()
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", script, tmp_path / grace]
        environment = {**os.environ, "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": grace}
        launches[grace] = subprocess.Popen([sys.executable, *command], env=environment, stderr=subprocess.DEVNULL)
    for grace, launch in launches.items():
        deadline = time.monotonic() + 60
        while not (tmp_path / grace / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        launch.terminate()
    for launch in launches.values():
        launch.wait(60)
    assert [grace for grace in launches if (tmp_path / grace / "saved").exists()] == ["60"]


@pytest.mark.parametrize(("where", "rank"), [("step", 1), ("digest", 0)])
@pytest.mark.slow
def test_the_failing_rank_tells_its_error_first_and_alone(where, rank, tiny_model_dir, tmp_path):
    """In a step, or while one rank hashes what all read and the other waits for it; only that one hashes."""
    started = time.monotonic()
    done = under_agent(fail, where, *sft_flags(tmp_path, tiny_model_dir), ranks=2)
    assert done.codes == [1]
    assert time.monotonic() - started < 60
    first = next(line for line in done.printed.splitlines() if re.search(r"\b(\w*Error|error|Traceback)\b", line))
    assert first.startswith(f"[rank {rank}] ")
    assert done.printed.count("the second shard is broken") == 1
    assert (f"[rank {rank}] RuntimeError: the second" in done.printed) == (where == "step")
    assert f"[rank {1 - rank}]" not in done.printed
    assert re.findall(r"rank \d reads it", done.printed) == {"step": [], "digest": ["rank 0 reads it"]}[where]


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_job_and_is_named(tiny_model_dir, tmp_path):
    """It can say nothing itself; the one that waited for it does not complain in its place."""
    started = time.monotonic()
    done = under_agent(fail, "killed", *sft_flags(tmp_path, tiny_model_dir), ranks=2)
    assert done.codes == [1]
    assert time.monotonic() - started < 60
    assert re.search(r"rank\s+: 1 .*\n\s+exitcode\s+: -9 ", done.printed)
    assert "[rank 0]" not in done.printed
