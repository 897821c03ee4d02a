"""Train a model on preference pairs (DPO) or on supervised examples (SFT), with Megatron-core.

Reads:  a model (Hugging Face directory), and either pairs with their reference log-probabilities or SFT examples.
Does:   minimises the objective and measures held-out data; every rank runs this same program.
Writes: the trained model as a Hugging Face directory (`--output` is its manifest.json, written last), and one row per
        step and metric (`--metrics`). Beside that file: `speed.parquet` (clock and memory), `ledger.parquet` (what is
        not trained on, and why), `samples.parquet` (held-out pairs), and what the loggers of `--loggers` write.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from stages import tables
from stages.config import MegatronSettings, TrainSection, resolve, resolved
from stages.contracts.artifacts import write
from stages.contracts.cli import run
from stages.contracts.ids import Seeds, digest
from stages.contracts.provenance import describe, stage_version
from stages.contracts.schema import frame
from stages.megatron import weights
from stages.megatron.checkpoint import Checkpoints
from stages.megatron.launch import on_ranks
from stages.megatron.loop import Trainer, run_batch
from stages.megatron.model import build_model
from stages.megatron.parallel import Rank, world
from stages.megatron.skipped_steps import SkippedSteps
from stages.megatron.speed import ModelSize, model_size, peak_memory, speed, token_count
from stages.model_files.config import read_config
from stages.model_files.manifest import move_model
from stages.training.batches import Example, plan_steps
from stages.training.log import TrainingLog, tell_step, tell_validation
from stages.training.loggers import MetricSinks, check_loggers
from stages.training.objectives import Objective
from stages.training.task import Task, TaskSettings, check_step_zero, load_answers, load_task, pair_loss, read_digests
from stages.training.validation import Standing, Validation, sample_rows

_PLANNED = TrainSection.model_fields.keys() - {"checkpoint_every_steps", "keep_checkpoints", "max_bad_steps"}


class Args(TaskSettings):
    """Command line of the stage."""

    output: Path = Field(description="manifest.json of the trained model's directory.")
    metrics: Path = Field(description="Metrics per step (Parquet); the other reports go beside it.")
    seed: int = Field(0, description="Run seed.")
    iteration: int = Field(1, ge=0, description="Iteration that this training belongs to; 0 is before the loop.")


def _plan(args: Args, steps: Sequence[Sequence[Example]], inputs: Sequence[str]) -> str:
    """Digest of all that decides what every step computes; layout of ranks and checkpointing are not part of it.

    `inputs` are digests of the model and of the data.
    """
    settings = args.model_dump(mode="json", include=_PLANNED | {"chat", "objective", "seed", "iteration"})
    keys = [[example.key for example in batch] for batch in steps]
    return digest(stage_version("train"), settings, args.megatron.dtype, inputs, keys)


def _forward(
    chunks: Sequence[Any], settings: MegatronSettings, rank: Rank, examples: Sequence[Example], objective: Objective
) -> dict[str, float]:
    with torch.no_grad():
        return run_batch(chunks, examples, objective, settings, rank, forward_only=True)


@dataclass(frozen=True)
class Training:
    """A training under way on this rank."""

    args: Args
    rank: Rank
    task: Task
    trainer: Trainer
    validation: Validation
    log: TrainingLog
    checkpoints: Checkpoints
    save: Callable[[Path], None]

    def run(self, steps: Sequence[Sequence[Example]], done: int, progress: dict[str, Any]) -> None:
        """Take the steps, fewer where validation says so; the first `done` of them were taken before, with `progress`
        as it was then."""
        size = model_size(self.args.model, read_config(self.args.model)) if self.args.megatron.peak_tflops else None
        if self.rank.is_main:
            print(self.task.summary, file=sys.stderr)
        if done:
            self.log.rows = progress["rows"]
            self.validation.standing = Standing(**progress["standing"])
        else:
            self.log.metrics(0, self.task.constants)
            self.validate(0, len(steps))
        skipped = SkippedSteps(self.args.max_bad_steps, self.log.rows["metrics"])
        for step, batch in enumerate(steps[done:], start=done + 1):
            if self.validation.exhausted:
                break
            values = self.step(step, batch, len(steps), size)
            skipped.note(step, values, batch, self.rank)
            self.validate(step, len(steps))
            standing = asdict(self.validation.standing)
            self.checkpoints.after_step(step, self.trainer, {"rows": self.log.rows, "standing": standing})

    def step(self, step: int, batch: Sequence[Example], steps: int, size: ModelSize | None) -> dict[str, float]:
        """Take one step and report it."""
        args, started = self.args, time.perf_counter()
        means = self.trainer.step(batch, self.task.objective)
        seconds = time.perf_counter() - started
        values = {**self.task.objective.summary(means), "tokens": float(token_count(batch))}
        if args.objective == "dpo":
            values["beta"] = resolved(args.beta)
            if step == 1 and self.task.from_reference:
                check_step_zero(values, batch, args)
        self.log.metrics(step, values)
        peak = args.megatron.peak_tflops and args.megatron.peak_tflops * 1e12 * self.rank.world
        self.log.speed(step, {**speed(batch, seconds, size, peak), "peak_memory": peak_memory(self.rank)})
        if self.rank.is_main:
            tell_step(step, steps, values, seconds)
        return values

    def validate(self, step: int, steps: int) -> None:
        """Measure the held-out data where that is due; keep the weights if they are the best ones."""
        if not self.validation.due(step, steps):
            return
        args, shown = self.args, self.validation.shown
        metrics, logprobs = self.validation.measure(step)
        self.log.metrics(step, metrics)
        texts = self.task.texts([example.key for example in shown])
        beta = resolved(args.beta)
        self.log.samples(step, sample_rows(step, shown, texts, logprobs, beta, pair_loss(args)))
        if self.rank.is_main:
            tell_validation(step, metrics)
        if self.validation.is_best(step):
            self.save(self.best)

    @property
    def best(self) -> Path:
        """Where the best weights wait: beside the model's directory, so that they can be moved there."""
        return self.args.output.parent.with_name(f".{self.args.output.parent.name}.best")

    def finish(self, started_from: str) -> None:
        """Write the model and the reports; `started_from` is the digest of the model before."""
        args = self.args
        if args.validation.keep == "last":
            self.save(args.output.parent)
        elif self.rank.is_main:
            move_model(self.best, args.output.parent)
        if self.rank.is_main:
            facts = {"seed": args.seed, "iteration": args.iteration, "model": started_from}
            origin = describe("train", args, [*self.task.inputs, *args.validation.answers], **facts)
            self.log.write(args.metrics, origin)
            left_out = frame(tables.TRAIN_LEDGER, self.task.left_out)
            write(left_out, args.metrics.with_name("ledger.parquet"), tables.TRAIN_LEDGER, origin)


@on_ranks("nemo.core.optim.lr_scheduler")
def main(args: Args) -> None:
    """Train and write; every rank runs this."""
    args = resolve(args, max(args.iteration, 1))
    check_loggers(args.loggers)
    facts = read_config(args.model)
    with world(args.megatron, facts) as rank:
        digests = rank.from_main(partial(read_digests, args))
        task = load_task(args, digests)
        steps = plan_steps(task.examples, args.batch_size, args.epochs, Seeds(args.seed, args.iteration).of("train"))
        chunks = build_model(facts, args.megatron, rank.device)
        weights.load(chunks, args.model, facts)
        spanned = len(steps) * (args.optimizer.schedule_epochs or args.epochs) // args.epochs
        trainer = Trainer(chunks, args.megatron, args.optimizer, spanned, rank)
        forward = partial(_forward, trainer.chunks, args.megatron, rank)
        validation = Validation(
            args.validation, task.held_out, load_answers(args), task.objective, forward, rank.from_all
        )
        save = partial(weights.save, chunks, facts=facts, source=args.model, rank=rank)
        names = args.loggers if rank.is_main else []
        folder = args.metrics.parent / "checkpoints"
        plan = rank.from_main(lambda: _plan(args, steps, [digests[path] for path in (args.model, *task.inputs)]))
        with Checkpoints(folder, plan, args.checkpoint_every_steps, args.keep_checkpoints, rank) as checkpoints:
            done, progress = checkpoints.resume(trainer)
            with MetricSinks(names, args.metrics.parent, args.model_dump(mode="json"), first_step=done) as sinks:
                training = Training(args, rank, task, trainer, validation, TrainingLog(sinks), checkpoints, save)
                training.run(steps, done, progress)
        training.finish(digests[args.model])
        checkpoints.delete()


if __name__ == "__main__":
    run(Args, main)
