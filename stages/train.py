"""Train a model on preference pairs (DPO) or on supervised examples (SFT), with Megatron-core.

Reads   a model (Hugging Face directory), and either pairs with their reference log-probabilities or SFT examples.
Does    minimises the objective and measures held-out data; every rank of torchrun or srun runs this same program.
Writes  the trained model as a Hugging Face directory (`--output` is its manifest.json, written last), and one row per
        step and metric (`--metrics`). Beside that file: `speed.parquet` (clock and memory), `ledger.parquet` (what is
        not trained on, and why), `samples.parquet` (held-out pairs), and what the loggers of `--loggers` write.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from stages import tables
from stages.artifacts import file_digest, frame, provenance, write
from stages.cli import run
from stages.config import MegatronSettings, TrainSection, at
from stages.config.training import MARGIN_LOSSES
from stages.errors import StageError
from stages.ids import seed_for
from stages.manifest import move_model
from stages.megatron import data, weights
from stages.megatron.batches import Example, plan_steps, score_margins
from stages.megatron.hf_config import read_config
from stages.megatron.loop import Trainer, run_batch
from stages.megatron.losses import PairLoss, preference_loss
from stages.megatron.model import build_model
from stages.megatron.objectives import Objective, preference, sft
from stages.megatron.parallel import Rank, world
from stages.megatron.speed import ModelSize, model_size, peak_memory, speed, token_count
from stages.megatron.validation import Validation, hold_out, sample_rows
from stages.metric_sinks import MetricSinks, check_loggers
from stages.provenance import describe, model_digest
from stages.training_log import TrainingLog, tell_step, tell_validation

STEP_ZERO_MARGIN = 2e-3
"""Largest mean reward margin (beta applied) that numerical noise explains before the first update."""


class Args(TrainSection):
    """Command-line flags."""

    megatron: MegatronSettings = Field(MegatronSettings(), description="Ranks, layout and precision.")
    objective: Literal["dpo", "sft"] = Field("dpo", description="What to minimise.")
    model: Path = Field(description="Model to start from.")
    pairs: Path | None = Field(None, description="Preference pairs (dpo).")
    reference_logprobs: Path | None = Field(None, description="The pairs' reference log-probabilities (dpo).")
    reference_model: Path | None = Field(None, description="Reference model; unset: `model` itself (dpo).")
    examples: list[Path] = Field([], description="Supervised examples (sft).")
    output: Path = Field(description="manifest.json of the trained model's directory.")
    metrics: Path = Field(description="Metrics per step (Parquet); the other reports go beside it.")
    seed: int = Field(0, description="Run seed.")
    iteration: int = Field(1, description="Iteration that this training belongs to.")


@dataclass(frozen=True)
class Task:
    """What is learnt, and from what."""

    objective: Objective
    examples: list[Example]
    held_out: list[Example]
    left_out: list[dict[str, Any]]
    """Rows of table `train_ledger`."""
    inputs: list[Path]
    texts: Callable[[Sequence[str]], list[dict[str, Any]]] = field(repr=False)
    """Texts of held-out examples by key."""
    constants: dict[str, float]
    """Metrics that hold for the whole training."""
    summary: str


def main(args: Args) -> None:
    """Train and write; every rank runs this."""
    check_loggers(args.loggers)
    hf = read_config(args.model)
    with world(args.megatron) as rank:
        task = load_task(args)
        steps = plan_steps(task.examples, args.batch_size, args.epochs, seed_for(args.seed, args.iteration, "train"))
        model = build_model(hf, getattr(torch, args.megatron.dtype), rank.device)
        weights.load(model, args.model, hf)
        trainer = Trainer(model, args.optimizer, at(args.optimizer.learning_rate, args.iteration), len(steps), rank)
        forward = partial(_forward, trainer.model, args.megatron.micro_batch_tokens, rank)
        answers = _answers(args)
        validation = Validation(args.validation, task.held_out, answers, task.objective, forward)
        names = args.loggers if rank.is_main else []
        with MetricSinks(names, args.metrics.parent, args.model_dump(mode="json")) as sinks:
            save = partial(weights.save, model, hf=hf, source=args.model)
            training = Training(args, rank, task, trainer, validation, TrainingLog(sinks), save)
            training.run(steps)
        training.finish()


def load_task(args: Args) -> Task:
    """Objective and data of the asked-for training, and a line about them; StageError where nothing is left."""
    screened, objective, inputs, texts = _supervised(args) if args.objective == "sft" else _preferences(args)
    source = ", ".join(map(str, inputs[:1] if args.objective == "dpo" else inputs))
    if args.overlong == "refuse":
        data.require_fitting(screened, source)
    examples, held_out = hold_out(screened.kept, args.validation.fraction)
    if not examples:
        raise StageError(f"{source}: nothing to train on: {screened}; held out: {len(held_out)}")
    if args.validation.fraction and not held_out:
        raise StageError(
            f"{source}: validation.fraction {args.validation.fraction} holds out none of {len(examples)}: raise it, or "
            "set 0"
        )
    constants: dict[str, float] = {"examples": len(examples), "held_out": len(held_out)}
    constants |= {"dropped_share": screened.share("overlong"), "bad_share": screened.share(*data.BAD)}
    left_out = [*screened.left_out, *map(data.held_out_row, held_out)]
    summary = f"{source}: {screened}; held out: {len(held_out)}"
    return Task(objective, examples, held_out, left_out, inputs, texts, constants, summary)


def _supervised(args: Args) -> Any:
    if not args.examples:
        raise StageError("--objective sft needs --examples")
    screened = data.supervised_examples(args.examples, _tokenizer(args), args.megatron.max_sequence_length)
    return screened, sft(), args.examples, partial(data.example_texts, args.examples)


def _preferences(args: Args) -> Any:
    if args.pairs is None or args.reference_logprobs is None:
        raise StageError("--objective dpo needs --pairs and --reference-logprobs")
    check_reference(args.reference_logprobs, args.pairs, args.reference_model or args.model)
    length = args.megatron.max_sequence_length
    screened = data.preference_examples(args.pairs, args.reference_logprobs, length, args.judge_pair_margin)
    if args.loss in MARGIN_LOSSES:
        data.require_margins(screened.kept, args.pairs, args.loss)
    objective = preference(at(args.beta, args.iteration), args.sft_weight, _pair_loss(args))
    return screened, objective, [args.pairs, args.reference_logprobs], partial(data.pair_texts, args.pairs)


def check_reference(logprobs: Path, pairs: Path, reference: Path) -> None:
    """StageError unless the log-probabilities are of these very pairs under the reference model: its weights, tokenizer
    and chat template."""
    facts = provenance(logprobs)
    if file_digest(pairs) not in facts.get("inputs", {}).values():
        raise StageError(f"{logprobs}: computed for other pairs than {pairs}; delete it and rerun")
    if facts.get("model") != model_digest(reference):
        raise StageError(
            f"{logprobs}: computed by another model than {reference} (weights, tokenizer or chat template differ); "
            "delete it and rerun"
        )


def _answers(args: Args) -> list[Example]:
    """Supervised examples that only validation sees."""
    if not args.validation.answers:
        return []
    found = data.answer_examples(args.validation.answers, _tokenizer(args), args.megatron.max_sequence_length)
    if not found.kept:
        raise StageError(f"{args.validation.answers[0]}: no answer to validate on: {found} kept")
    return found.kept


def _tokenizer(args: Args) -> data.TurnEncoder:
    from stages.chat import ChatTokenizer

    return ChatTokenizer(args.model)


def _pair_loss(args: TrainSection) -> PairLoss:
    return PairLoss(args.loss, args.label_smoothing, args.length_normalised, args.margin_scale)


def _forward(
    model: Any, token_budget: int, rank: Rank, examples: Sequence[Example], objective: Objective
) -> dict[str, float]:
    with torch.no_grad():
        return run_batch(model, examples, objective, token_budget, rank, forward_only=True)


@dataclass(frozen=True)
class Training:
    """A training under way on this rank."""

    args: Args
    rank: Rank
    task: Task
    trainer: Trainer
    validation: Validation
    log: TrainingLog
    save: Callable[[Path], None]

    def run(self, steps: Sequence[Sequence[Example]]) -> None:
        """Take the steps, fewer where validation says so."""
        size = model_size(self.args.model, read_config(self.args.model)) if self.args.megatron.peak_tflops else None
        if self.rank.is_main:
            print(self.task.summary, file=sys.stderr)
        self.log.metrics(0, self.task.constants)
        self.validate(0, len(steps))
        for step, batch in enumerate(steps, start=1):
            self.step(step, batch, len(steps), size)
            self.validate(step, len(steps))
            # What a resumed training needs beside model and optimizer: step, validation.standing, log.rows.
            if self.validation.exhausted:
                break

    def step(self, step: int, batch: Sequence[Example], steps: int, size: ModelSize | None) -> None:
        """Take one step and report it."""
        args, started = self.args, time.perf_counter()
        means = self.trainer.step(batch, self.task.objective, args.megatron.micro_batch_tokens)
        seconds = time.perf_counter() - started
        values = {**self.task.objective.summary(means), "tokens": float(token_count(batch))}
        if args.objective == "dpo":
            values["beta"] = at(args.beta, args.iteration)
            if step == 1:
                check_step_zero(values, batch, args)
        self.log.metrics(step, values)
        peak = args.megatron.peak_tflops and args.megatron.peak_tflops * 1e12 * self.rank.world
        self.log.speed(step, {**speed(batch, seconds, size, peak), "peak_memory": peak_memory(self.rank)})
        if self.rank.is_main:
            tell_step(step, steps, values, seconds)

    def validate(self, step: int, steps: int) -> None:
        """Measure the held-out data where that is due; keep the weights if they are the best ones."""
        if not self.validation.due(step, steps):
            return
        args, shown = self.args, self.validation.shown
        metrics, logprobs = self.validation.measure(step)
        self.log.metrics(step, metrics)
        texts = self.task.texts([example.key for example in shown])
        beta, pair_loss = at(args.beta, args.iteration), _pair_loss(args)
        self.log.samples(step, sample_rows(step, shown, texts, logprobs, beta, pair_loss))
        if self.rank.is_main:
            tell_validation(step, metrics)
        if self.validation.is_best(step):
            self.save(self.best)

    @property
    def best(self) -> Path:
        """Where the best weights wait: beside the model's directory, so that they can be moved there."""
        return self.args.output.parent.with_name(f".{self.args.output.parent.name}.best")

    def finish(self) -> None:
        """Write the model and the reports."""
        args = self.args
        if args.validation.keep == "last":
            self.save(args.output.parent)
        elif self.rank.is_main:
            move_model(self.best, args.output.parent)
        if self.rank.is_main:
            facts = {"seed": args.seed, "iteration": args.iteration, "model": model_digest(args.model)}
            origin = describe("train", args, [*self.task.inputs, *args.validation.answers], **facts)
            self.log.write(args.metrics, origin)
            left_out = frame(tables.TRAIN_LEDGER, self.task.left_out)
            write(left_out, args.metrics.with_name("ledger.parquet"), tables.TRAIN_LEDGER, origin)


def check_step_zero(values: dict[str, float], batch: Sequence[Example], args: Args) -> None:
    """Before the first update policy and reference are the same model: all reward margins of the first `batch` are 0,
    and its preference loss must be what the loss is there (DPO: ln 2).

    Not checked when the reference is another model by configuration.
    """
    if args.reference_model and model_digest(args.reference_model) != model_digest(args.model):
        return

    def loss_at(margin: float) -> float:
        margins, beta = torch.full([len(batch)], margin), at(args.beta, args.iteration)
        return float(preference_loss(margins, score_margins(batch), beta, _pair_loss(args)).mean())

    loss, expected = values["preference_loss"], loss_at(0.0)
    # Losses are not equally steep there; one whose target is a margin of 0 is flat.
    tolerance = max(abs(loss_at(margin) - expected) for margin in (-STEP_ZERO_MARGIN, STEP_ZERO_MARGIN))
    if abs(loss - expected) > max(tolerance, STEP_ZERO_MARGIN / 2):
        raise StageError(
            f"the first {args.loss} loss is {loss:.4f}, not {expected:.4f} as of a policy that equals the reference: "
            f"{args.reference_logprobs} was not computed by the model that is trained, or with other settings; "
            "delete it and rerun"
        )


if __name__ == "__main__":
    run(Args, main)
