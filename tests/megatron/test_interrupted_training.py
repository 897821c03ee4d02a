"""Training that is killed or told to stop, and in which a rank fails."""

import re
import signal
import time

import pytest
import torch
from safetensors.torch import load_file

from stages import tables, train
from stages.contracts import cli
from stages.contracts.artifacts import read
from tests.probes.checkpoints import fail, interrupted_train, stop_slowly
from tests.support.ranks import fork
from tests.support.sft_files import sft_flags

TWO_RANKS = ("--megatron.processes", "2")


def names(directory):
    return sorted(path.name for path in directory.iterdir())


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
    """The process that started two ranks is told to stop in step 3; one alone finishes what they began."""
    flags = sft_flags(tmp_path, tiny_model_dir)
    done = fork(interrupted_train, "SIGTERM", "step:3", *flags, *TWO_RANKS)
    assert done.codes == [128 + signal.SIGTERM]
    assert done.printed.count("stopped by SIGTERM after step 3; rerun to go on") == 1
    assert names(tmp_path / "checkpoints") == ["step-00000002", "step-00000003"]
    cli.run(train.Args, train.main, flags)
    _, metrics = outcome(tmp_path)
    assert metrics.select("step", "metric").equals(undisturbed[1].select("step", "metric"))
    assert metrics["value"].to_list() == pytest.approx(undisturbed[1]["value"].to_list(), rel=1e-5, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("grace", "saved"), [("0", []), (None, ["saved"])])
def test_ranks_that_are_told_to_stop_have_time_to_save(grace, saved, tmp_path):
    """One that needs two seconds after SIGTERM: within no grace at all, and within the usual one."""
    assert fork(stop_slowly, grace, tmp_path).codes == [128 + signal.SIGTERM]
    assert names(tmp_path) == saved


@pytest.mark.parametrize(("where", "rank"), [("step", 1), ("digest", 0)])
@pytest.mark.slow
def test_the_failing_rank_tells_its_error_first_and_alone(where, rank, tiny_model_dir, tmp_path):
    """In a step, or while one rank hashes what all read and the other waits for it; only that one hashes."""
    started = time.monotonic()
    done = fork(fail, where, *sft_flags(tmp_path, tiny_model_dir), *TWO_RANKS)
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
    done = fork(fail, "killed", *sft_flags(tmp_path, tiny_model_dir), *TWO_RANKS)
    assert done.codes == [1]
    assert time.monotonic() - started < 60
    assert "error: rank 1 was ended by SIGKILL; rerun, with more memory if it ran out\n" in done.printed
    assert "[rank 0]" not in done.printed
