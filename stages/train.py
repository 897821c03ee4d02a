"""Train a model on preference pairs (DPO) or on supervised examples (SFT), with Megatron-core.

Reads   a model (Hugging Face directory), and either pairs with their reference log-probabilities or SFT examples.
Does    minimises the objective; every rank of torchrun or srun runs this same program.
Writes  the trained model as a Hugging Face directory (`--output` is its manifest.json, written last), and one row per
        step and metric (`--metrics`, also as TensorBoard events beside it).
"""

import math
import sys
import time
from collections.abc import Sequence
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
from stages.ids import digest, seed_for
from stages.megatron import weights
from stages.megatron.bad_steps import BadSteps
from stages.megatron.batches import Example, plan_steps, score_margins
from stages.megatron.checkpoint import Checkpoints
from stages.megatron.data import preference_examples, require_margins, supervised_examples
from stages.megatron.hf_config import read_config
from stages.megatron.loop import Trainer
from stages.megatron.losses import PairLoss, preference_loss
from stages.megatron.model import build_model
from stages.megatron.objectives import Objective, preference, sft
from stages.megatron.parallel import Rank, world
from stages.provenance import describe, model_digest, stage_version

STEP_ZERO_MARGIN = 2e-3
"""Largest mean reward margin (beta applied) that numerical noise explains before the first update."""


_PLANNED = TrainSection.model_fields.keys() - {"checkpoint_every_steps", "keep_checkpoints", "max_bad_steps"}


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
    metrics: Path = Field(description="Metrics per step (Parquet).")
    seed: int = Field(0, description="Run seed.")
    iteration: int = Field(1, description="Iteration that this training belongs to.")


def main(args: Args) -> None:
    """Train and write; every rank runs this."""
    hf = read_config(args.model)
    with world(args.megatron) as rank:
        examples, objective, inputs = _task(args)
        steps = plan_steps(examples, args.batch_size, args.epochs, seed_for(args.seed, args.iteration, "train"))
        model = build_model(hf, getattr(torch, args.megatron.dtype), rank.device)
        weights.load(model, args.model, hf)
        trainer = Trainer(model, args.optimizer, at(args.optimizer.learning_rate, args.iteration), len(steps), rank)
        folder, plan = args.metrics.parent / "checkpoints", _plan(args, steps, inputs)
        with Checkpoints(folder, plan, args.checkpoint_every_steps, args.keep_checkpoints, rank) as checkpoints:
            rows = _train(trainer, steps, objective, args, rank, checkpoints)
        weights.save(model, args.output.parent, hf, source=args.model)
        if rank.is_main:
            facts = describe(
                "train", args, inputs, seed=args.seed, iteration=args.iteration, model=model_digest(args.model)
            )
            write(frame(tables.TRAIN_METRICS, rows), args.metrics, tables.TRAIN_METRICS, facts)
        checkpoints.delete()


def _plan(args: Args, steps: Sequence[Sequence[Example]], inputs: Sequence[Path]) -> str:
    """Digest of all that decides what every step computes; layout of ranks and checkpointing are not part of it."""
    settings = args.model_dump(mode="json", include=_PLANNED | {"objective", "seed", "iteration"})
    keys = [[example.key for example in batch] for batch in steps]
    data = [file_digest(path) for path in inputs]
    return digest(stage_version("train"), settings, args.megatron.dtype, model_digest(args.model), data, keys)


def _task(args: Args) -> tuple[list[Example], Objective, list[Path]]:
    """Examples, objective and input files of the asked-for training."""
    if args.objective == "sft":
        if not args.examples:
            raise StageError("--objective sft needs --examples")
        from stages.chat import ChatTokenizer

        tokenizer = ChatTokenizer(args.model)
        return supervised_examples(args.examples, tokenizer, args.megatron.max_sequence_length), sft(), args.examples
    if args.pairs is None or args.reference_logprobs is None:
        raise StageError("--objective dpo needs --pairs and --reference-logprobs")
    facts, reference = provenance(args.reference_logprobs), args.reference_model or args.model
    if file_digest(args.pairs) not in facts.get("inputs", {}).values():
        raise StageError(f"{args.reference_logprobs}: computed for other pairs than {args.pairs}; delete it and rerun")
    if facts.get("model") != model_digest(reference):
        raise StageError(f"{args.reference_logprobs}: computed by another model than {reference}; delete it and rerun")
    length = args.megatron.max_sequence_length
    examples = preference_examples(args.pairs, args.reference_logprobs, length, args.judge_pair_margin)
    if args.loss in MARGIN_LOSSES:
        require_margins(examples, args.pairs, args.loss)
    objective = preference(at(args.beta, args.iteration), args.sft_weight, _pair_loss(args))
    return examples, objective, [args.pairs, args.reference_logprobs]


def _pair_loss(args: TrainSection) -> PairLoss:
    return PairLoss(args.loss, args.label_smoothing, args.length_normalised, args.margin_scale)


def _train(
    trainer: Trainer,
    steps: list[list[Example]],
    objective: Objective,
    args: Args,
    rank: Rank,
    checkpoints: Checkpoints,
) -> list[dict[str, Any]]:
    done, rows = checkpoints.resume(trainer)
    bad_steps = BadSteps(args.max_bad_steps, rows)
    logger = _tensorboard(args.metrics.parent, done + 1) if rank.is_main else None
    for step, batch in enumerate(steps[done:], start=done + 1):
        started = time.perf_counter()
        values = trainer.step(batch, objective, args.megatron.micro_batch_tokens)
        if step == 1 and args.objective == "dpo":
            check_step_zero(values, batch, args)
        bad_steps.note(step, values, batch, rank)
        rows += [{"step": step, "metric": name, "value": value} for name, value in values.items()]
        if logger:
            seconds = time.perf_counter() - started
            logger.log_metrics({**values, "seconds_per_step": seconds}, step=step)
            print(_progress(step, len(steps), values, seconds), file=sys.stderr, flush=True)
        checkpoints.after_step(step, trainer, rows)
    if logger:
        logger.finalize("success")
    return rows


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


def _tensorboard(directory: Path, first_step: int) -> Any:
    from lightning.pytorch.loggers import TensorBoardLogger  # the logger that NeMo brings

    return TensorBoardLogger(save_dir=str(directory), name="tensorboard", version="", purge_step=first_step)


def _progress(step: int, steps: int, values: dict[str, float], seconds: float) -> str:
    loss = values.get("loss", values.get("sft_loss", math.nan))
    accuracy = f"  accuracy {values['accuracy']:.2f}" if "accuracy" in values else ""
    return f"step {step}/{steps}  loss {loss:.4f}{accuracy}  gradient {values['gradient_norm']:.2f}  {seconds:.2f} s"


if __name__ == "__main__":
    run(Args, main)
