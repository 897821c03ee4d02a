"""Trainings that go on in another layout, are interrupted, or fail."""

import contextlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from megatron.core import parallel_state

from stages import train
from stages.config import MegatronSettings
from stages.contracts import cli
from stages.contracts.errors import StageError
from stages.megatron import loop, training_state
from stages.megatron.checkpoint import Checkpoints
from stages.megatron.launch import on_ranks
from stages.megatron.loop import Trainer
from stages.megatron.parallel import Rank, world
from stages.model_files.config import read_config
from stages.training import task as train_task
from tests.support.small_trainer import new_trainer, take_steps

OPTIMIZERS = ("plain", "distributed")
BROKEN = "the second shard is broken"


@contextlib.contextmanager
def layout(tensor: int, pipeline: int) -> Iterator[None]:
    """Lay Megatron's groups anew over the ranks that there are."""
    parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(tensor, pipeline)
    yield


def layouts(model_dir: Path, folder: Path) -> None:
    """Go on from the test's checkpoints: steps 3 and 4 with 2 replicas, 5 and 6 with 2 tensor ranks, 7 and 8 with 2
    pipeline stages."""
    found: dict[str, Any] = {}
    with world(MegatronSettings(), read_config(model_dir)) as rank:
        for optimizer in OPTIMIZERS:
            checkpoints = Checkpoints(folder / optimizer, "plan", 1, 2, rank)
            for step, (tensor, pipeline) in {2: (1, 1), 4: (2, 1), 6: (1, 2)}.items():
                with layout(tensor, pipeline):
                    values = {"tensor_parallel": tensor, "pipeline_parallel": pipeline}
                    values["distributed_optimizer"] = optimizer == "distributed"
                    trainer = new_trainer(model_dir, rank, **values)
                    done, _ = checkpoints.resume(trainer)
                    assert done == step
                    found.setdefault(optimizer, []).extend(take_steps(trainer, 2))
                    checkpoints.save(step + 2, trainer, {})
        with layout(1, 1):
            found["full disk"] = full_disk(new_trainer(model_dir, rank), folder / "full", rank)
        if rank.is_main:
            (folder / "found.json").write_text(json.dumps(found))


def full_disk(trainer: Trainer, directory: Path, rank: Rank) -> dict[str, Any]:
    """What a save leaves behind in which rank 1 alone cannot write its tensors."""
    checkpoints = Checkpoints(directory, "plan", 1, 2, rank)
    take_steps(trainer, 1)
    checkpoints.save(1, trainer, {})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if not rank.is_main:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    message = ""
    try:
        checkpoints.save(2, trainer, {})
    except StageError as error:
        message = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    torch.distributed.barrier()
    left = sorted(path.name for path in directory.iterdir())
    messages: list[Any] = [None, None]
    torch.distributed.all_gather_object(messages, message)
    return {"messages": messages, "left": left, "usable": checkpoints.resume(trainer)[0]}


def interrupted_train(number: str, when: str, *flags: str) -> None:
    """`stages.train`; `when` is `step:5` or `save:6`. SIGTERM goes to who started the ranks, as Slurm does it."""
    place, _, target = when.partition(":")
    real = {"step": Trainer.step, "save": training_state.save}[place]
    calls = 0

    def interrupt(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        result = real(*args)
        if calls == int(target) and os.environ.get("RANK", "0") == "0":
            started = "RANK" in os.environ
            os.kill(os.getppid() if started else os.getpid(), signal.Signals[number])
            while started and signal.getsignal(signal.SIGTERM) and not stopped:
                signal.pause()
        return result

    stopped: list[bool] = []
    real_note = Checkpoints._note_signal

    def note(self: Checkpoints, *args: object) -> None:
        stopped.append(True)
        real_note(self, *args)

    with (
        patch.object(Checkpoints, "_note_signal", note),
        patch.object(*{"step": (Trainer, "step"), "save": (training_state, "save")}[place], interrupt),
    ):
        cli.run(train.Args, train.main, list(flags))


def stop_slowly(grace: str | None, folder: Path) -> None:
    """Two ranks that are told to stop, of which one takes two seconds for that, as if it saved a model."""

    def main(_: object) -> None:
        if os.environ["RANK"] == "0":
            signal.signal(signal.SIGTERM, lambda *_: (time.sleep(2), (folder / "saved").touch(), sys.exit(1)))
            time.sleep(1)
            os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)

    if grace:
        os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = grace
    on_ranks()(main)(SimpleNamespace(megatron=MegatronSettings(processes=2)))


def fail(where: str, *flags: str) -> None:
    """`stages.train`: rank 1 raises (or is killed) in the middle of its second step, or whichever rank hashes the model
    raises."""
    real, calls = loop.run_batch, []

    def step(*args: Any, **values: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 and os.environ["RANK"] == "1":
            if where == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise RuntimeError(BROKEN)
        return real(*args, **values)

    def model_digest(*_: Any) -> str:
        print(f"rank {os.environ['RANK']} reads it", file=sys.stderr, flush=True)
        raise StageError(BROKEN)

    digest = (train_task, "model_digest", model_digest)
    with patch.object(*digest if where == "digest" else (loop, "run_batch", step)):
        cli.run(train.Args, train.main, list(flags))
