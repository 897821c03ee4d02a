"""Checkpoints of a training run: written every so many steps and when the job is told to stop, read by the next try.

A checkpoint is a directory `step-00000100` that holds

- Megatron's distributed checkpoint: `__RANK_*.distcp` (tensors), `.metadata` (PyTorch's index of them, a pickle),
  `common.pt` (the optimizer's settings) and `metadata.json`; see `stages.megatron.training_state`;
- `training.json`: the step, the plan's digest, where the learning-rate schedules stand, the training's own progress (as
  its metric rows so far), and size and digest of every other file.

It is written under a partial name, synced to disk and then renamed: a directory of that name is complete. Tensors and
`common.pt` are read as plain data (`weights_only`), the index with an unpickler that knows its types only. The
directory must be one that all ranks see.
"""

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.core import CheckpointingException
from torch.distributed.checkpoint.api import CheckpointException

from stages.contracts.errors import StageError
from stages.contracts.files import file_digest
from stages.contracts.ids import digest
from stages.megatron import training_state
from stages.megatron.parallel import Rank

STATE = "training.json"
Progress = dict[str, Any]


class Checkpoints:
    """The checkpoints of one training, as a context in which SIGTERM means: finish the step, save, stop.

    `plan` is a digest of everything that decides what each step computes (data, settings, first weights), but not of
    how ranks share the work: a checkpoint of another plan is not used, one of another layout is.
    """

    def __init__(self, directory: Path, plan: str, every_steps: int, keep: int, rank: Rank):
        self.directory, self.plan, self.every_steps, self.keep, self.rank = directory, plan, every_steps, keep, rank
        self._told_to_stop = False

    def __enter__(self) -> "Checkpoints":
        self._handler = signal.signal(signal.SIGTERM, self._note_signal)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._handler)

    def resume(self, trainer: Any) -> tuple[int, Progress]:
        """Load the newest usable checkpoint into `trainer`; returns its step and progress, (0, {}) if there is none.

        A damaged checkpoint, or one of another plan, is named on stderr and passed over. Collective.
        """
        for path in self.rank.from_main(lambda: sorted(self.directory.glob("step-*"), reverse=True)):
            problem, state = self._inspect(path)
            if problem:
                self._tell(f"{path}: {problem}; not used")
                continue
            try:
                training_state.load(trainer, path, same_ranks=state["ranks"] == self.rank.world)
            except (OSError, RuntimeError, CheckpointingException, CheckpointException) as error:
                raise StageError(
                    f"{path}: cannot be loaded ({_cause(error, self.rank)}); delete it and rerun"
                ) from error
            training_state.set_schedule_position(trainer, state["schedule"])
            self._tell(f"{path}: training goes on after step {state['step']}")
            return state["step"], state["progress"]
        return 0, {}

    def after_step(self, step: int, trainer: Any, progress: Progress) -> None:
        """Save if it is time to, or if any rank was told to stop; then StageError ends the program. Collective."""
        stop = _any(self._told_to_stop, self.rank)
        if stop or step % self.every_steps == 0:
            self.save(step, trainer, progress)
        if stop:
            raise StageError(f"stopped by SIGTERM after step {step}; rerun to go on from the last checkpoint")

    def save(self, step: int, trainer: Any, progress: Progress) -> None:
        """Write the checkpoint of a step and remove all but the last `keep`. Collective.

        Writes none before the first update of the weights, while there is nothing that a rerun would lose.
        Raises StageError if it cannot be written; earlier checkpoints are kept then, nothing else is left behind.
        """
        if not _any(training_state.has_moments(trainer), self.rank):
            return
        partial, path = self.directory / ".partial", self.directory / f"step-{step:08d}"
        try:
            if self.rank.is_main:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            torch.distributed.barrier()
            training_state.save(trainer, partial)
            files = self._digests(partial)
            if self.rank.is_main:
                state = {"plan": self.plan, "step": step, "ranks": self.rank.world, "files": files}
                state["progress"] = progress
                state["schedule"] = training_state.schedule_position(trainer)
                (partial / STATE).write_text(json.dumps({"digest": digest(state), "state": state}), encoding="utf-8")
                _publish(partial, path)
                self._remove_old(path)
        except (OSError, RuntimeError, CheckpointException) as error:
            if self.rank.is_main:
                shutil.rmtree(partial, ignore_errors=True)
            raise StageError(
                f"{path}: cannot save the checkpoint ({_cause(error, self.rank)}); see whether the disk is full, and "
                "rerun: training goes on from the last one"
            ) from error
        torch.distributed.barrier()

    def delete(self) -> None:
        """Remove all checkpoints: the training is complete and its model saved."""
        if self.rank.is_main:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _inspect(self, path: Path) -> tuple[str, dict[str, Any]]:
        """Why a checkpoint cannot be used ("" if it can), and its `training.json`; the same on every rank."""
        state = self.rank.from_main(lambda: _read_state(path / STATE))
        if not state:
            return f"{STATE} is missing or damaged", state
        if state["plan"] != self.plan:
            return "made with other pairs, settings, code or model", state
        if self._digests(path) != state["files"]:
            return "a file is missing or damaged", state
        return "", state

    def _digests(self, path: Path) -> dict[str, list[Any]]:
        """Size and digest of every file but `training.json`; the ranks share the reading."""
        names = sorted(file.name for file in path.iterdir() if file.name != STATE)
        mine = names[self.rank.rank :: self.rank.world]
        found = {name: [(path / name).stat().st_size, file_digest(path / name)] for name in mine}
        return {name: value for part in self.rank.from_all(found) for name, value in part.items()}

    def _remove_old(self, newest: Path) -> None:
        """Keep the last checkpoints of this plan. Later ones than `newest` are damaged or of another plan."""
        steps = sorted(self.directory.glob("step-*"))
        for old in [*(path for path in steps if path > newest), *steps[: steps.index(newest) + 1][: -self.keep]]:
            shutil.rmtree(old)

    def _tell(self, sentence: str) -> None:
        if self.rank.is_main:
            print(sentence, file=sys.stderr, flush=True)

    def _note_signal(self, *_: object) -> None:
        self._told_to_stop = True


def _read_state(path: Path) -> dict[str, Any]:
    """What was written about a checkpoint; {} if it is not there or not what was written."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["state"] if content["digest"] == digest(content["state"]) else {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}


def _publish(partial: Path, path: Path) -> None:
    """Turn a fully written directory into a checkpoint: it is one from the rename on, also after a power cut."""
    shutil.rmtree(path, ignore_errors=True)  # there is none, or it was not usable
    for part in [*partial.iterdir(), partial]:
        _sync(part)
    os.replace(partial, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cause(error: BaseException, rank: Rank) -> str:
    """What went wrong in one line. Megatron raises a CheckpointException on all ranks, but only the first one's knows
    what happened on which."""
    if not isinstance(error, CheckpointException):
        return (str(error) or repr(error)).splitlines()[0]
    return rank.from_main(lambda: "; ".join(f"rank {number}: {why[0]}" for number, why in error.failures.items()))


def _any(flag: bool, rank: Rank) -> bool:
    """Whether any rank's flag is set."""
    flags = torch.tensor(float(flag), device=rank.device)
    torch.distributed.all_reduce(flags, torch.distributed.ReduceOp.MAX)
    return bool(flags)
