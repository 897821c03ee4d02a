"""Settings of training."""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from stages.config.base import Gate, Schedule, Section, Speed

PreferenceLoss = Literal["dpo", "ipo", "rpo_sq", "rpo_bwd_kl", "rpo_fwd_kl", "scale"]
RPO_LOSSES = ("rpo_sq", "rpo_bwd_kl", "rpo_fwd_kl")
MARGIN_LOSSES = (*RPO_LOSSES, "scale")
"""Losses that use the judge scores of both members of a pair."""


class ReferenceSection(Section):
    """The reference policy of DPO."""

    policy: Literal["previous", "initial"] = Field(
        "previous", description="`previous`: the model that the iteration starts from; `initial`: model 0."
    )


Logger = Literal["tensorboard", "wandb", "mlflow"]


class OptimizerSettings(Section):
    """Megatron's optimizer and the learning-rate schedule."""

    learning_rate: Schedule[PositiveFloat] = Field(1e-6, description="Peak learning rate (schedule).")
    min_learning_rate_ratio: float = Field(0.1, ge=0, le=1, description="Floor, as a share of the peak.")
    schedule_epochs: int | None = Field(
        None, ge=1, description="Epochs that the cosine spans, where training stops earlier; unset: those it trains."
    )
    warmup_steps: int = Field(10, ge=0, description="Linear warm-up.")
    constant_steps: int = Field(0, ge=0, description="Steps at the floor at the end, after the cosine.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Adam's first-moment decay.")
    beta2: float = Field(0.98, ge=0, lt=1, description="Adam's second-moment decay.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    clip_grad: float = Field(1.0, ge=0, description="Largest gradient norm; 0 does not clip.")

    def check_schedule(self, section: str, epochs: int) -> None:
        """ValueError if the schedule of the learning rate would end before a training of so many epochs does."""
        if self.schedule_epochs is not None and self.schedule_epochs < epochs:
            key = f"{section}.optimizer.schedule_epochs"
            raise ValueError(f"{key} ({self.schedule_epochs}) is below {section}.epochs ({epochs})")


class MegatronSettings(Section):
    """How Megatron-core lays the model out over the ranks, in training and for the reference policy."""

    processes: Speed[int] = Field(1, ge=1, description="Ranks on each node: one per GPU, or per CPU worker.")
    nodes: Speed[int] = Field(1, ge=1, description="Machines; above 1 the ranks are launched with `srun`.")
    tensor_parallel: Speed[int] = Field(1, ge=1, description="Ranks that share each layer.")
    sequence_parallel: Speed[bool] = Field(
        False, description="Tensor-parallel ranks share the work between the layers too, along the sequence."
    )
    pipeline_parallel: Speed[int] = Field(1, ge=1, description="Groups of ranks that share the layers (1F1B).")
    pipeline_chunks: Speed[int] = Field(
        1, ge=1, description="Runs of layers that each pipeline group holds; above 1 the schedule is interleaved."
    )
    context_parallel: Speed[int] = Field(1, ge=1, description="Ranks that share each pack of sequences.")
    distributed_optimizer: Speed[bool] = Field(
        False, description="Data-parallel ranks share the optimizer's state instead of copying it."
    )
    recompute: Speed[bool] = Field(
        False, description="Keep each layer's input alone and recompute the rest going backward."
    )
    threads: Speed[int] = Field(1, ge=1, description="CPU threads per rank.")
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="Type of weights and activations; with `bfloat16` the optimizer keeps fp32 weights."
    )
    attention: Speed[Literal["auto", "sdpa", "eager", "transformer_engine"]] = Field(
        "auto",
        description="Kernels of attention: Transformer Engine's, PyTorch's (`sdpa`), none (`eager`), or `auto`: "
        "Transformer Engine's where they are installed and can be used, else PyTorch's.",
    )
    micro_batch_tokens: Speed[int] = Field(
        16384, ge=1, description="Tokens per forward pass and rank, padding included."
    )
    max_sequence_length: int = Field(
        4096, ge=2, description="Longest prompt plus answer in tokens; for longer ones see `train.overlong`."
    )
    packing: Speed[bool] = Field(
        True, description="Sequences follow each other without padding; off: one padded row each."
    )
    share_prompts: Speed[bool] = Field(
        True, description="Compute what both members of a pair begin with once (packing)."
    )
    loss_logits_only: Speed[bool] = Field(True, description="Score the vocabulary only where a prediction counts.")
    logprob_chunk_tokens: Speed[int] = Field(
        1024, ge=1, description="Predictions that are scored against the whole vocabulary at a time."
    )
    peak_tflops: Speed[PositiveFloat | None] = Field(
        None, description="Peak TFLOP/s of a rank's device in `dtype`, from its data sheet: `mfu` is then reported."
    )

    @property
    def model_parallel(self) -> int:
        """Ranks that hold one copy of the model between them."""
        return self.tensor_parallel * self.pipeline_parallel * self.context_parallel

    @model_validator(mode="after")
    def _combinations(self) -> "MegatronSettings":
        if self.sequence_parallel and self.tensor_parallel == 1:
            raise ValueError("megatron.sequence_parallel needs megatron.tensor_parallel above 1")
        if self.pipeline_chunks > 1 and self.pipeline_parallel < 3:
            # With two groups each is the other's predecessor and successor, and Megatron mixes up the messages.
            raise ValueError("megatron.pipeline_chunks needs megatron.pipeline_parallel above 2")
        for name in ("context_parallel", "pipeline_chunks"):
            if getattr(self, name) > 1 and not self.packing:
                raise ValueError(f"megatron.{name} needs megatron.packing")
        return self


class ValidationSettings(Section):
    """What is measured during training on data that it does not see, and what follows from it."""

    fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the prompts whose pairs (or examples) are held out, by hash of the prompt; 0 holds none.",
    )
    answers: list[Path] = Field(
        [], description="Chat data on whose own answers the SFT loss is measured too: JSONL or Parquet, as for ingest."
    )
    every_steps: int = Field(50, ge=1, description="Optimizer steps between two validations.")
    samples: int = Field(8, ge=0, description="Held-out pairs that each validation shows with their texts.")
    patience: int | None = Field(
        None, ge=1, description="Stop after so many validations in a row without a lower `validation/loss`."
    )
    keep: Literal["last", "best"] = Field(
        "last", description="Weights that become the model: the last, or those with the lowest `validation/loss`."
    )

    @model_validator(mode="after")
    def _held_out(self) -> "ValidationSettings":
        if not self.fraction and (self.patience is not None or self.keep == "best"):
            raise ValueError("validation.patience and validation.keep `best` need validation.fraction above 0")
        return self


class TrainSection(Section):
    """One round of training."""

    loss: PreferenceLoss = Field("dpo", description="Preference loss; formulas are in `docs/metrics.md`.")
    beta: Schedule[PositiveFloat] = Field(0.1, description="KL penalty of DPO (schedule).")
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of pairs taken to be the wrong way round (cDPO); for `dpo` only."
    )
    length_normalised: bool = Field(
        False, description="Implicit rewards as means over a response's tokens instead of sums."
    )
    margin_scale: PositiveFloat = Field(
        1.0, description="Implicit reward that one point of judge score stands for; for `rpo_*` only."
    )
    judge_pair_margin: PositiveFloat | None = Field(
        None, description="Score margin of judge pairs, which have no scores; for `scale` and `rpo_*` only."
    )
    preference_weight: float = Field(
        1.0, ge=0, description="Weight of the preference loss; 0 leaves `sft_weight` alone: SFT on the chosen answers."
    )
    sft_weight: float = Field(0.0, ge=0, description="Weight of an added negative log-likelihood of the chosen answer.")
    epochs: int = Field(1, ge=1, description="Passes over the pairs.")
    batch_size: int = Field(32, ge=1, description="Pairs (or examples) per optimizer step, over all ranks.")
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="Optimizer and schedule.")
    overlong: Literal["drop", "refuse"] = Field(
        "drop",
        description="Pairs and examples above `megatron.max_sequence_length`: left out and listed, or an error.",
    )
    validation: ValidationSettings = Field(ValidationSettings(), description="Held-out data.")
    loggers: Speed[list[Logger]] = Field(
        ["tensorboard"],
        description="Where metrics go beside Parquet: any of `tensorboard`, `wandb`, `mlflow`; for EFT as well.",
    )
    checkpoint_every_steps: Speed[int] = Field(
        100, ge=1, description="Optimizer steps between checkpoints; a killed training goes on from the last one."
    )
    keep_checkpoints: Speed[int] = Field(
        2, ge=1, description="Checkpoints kept while training; they are deleted when the trained model is saved."
    )
    max_bad_steps: Gate[int] = Field(
        3, ge=1, description="Training stops after this many skipped steps in a row: loss or gradient was not finite."
    )

    @model_validator(mode="after")
    def _loss(self) -> "TrainSection":
        self.optimizer.check_schedule("train", self.epochs)
        if self.label_smoothing and self.loss != "dpo":
            raise ValueError(f"train.label_smoothing is defined for train.loss `dpo`, not for `{self.loss}`")
        if self.margin_scale != 1 and self.loss not in RPO_LOSSES:
            raise ValueError(f"train.margin_scale: train.loss `{self.loss}` does not scale score margins")
        if self.judge_pair_margin is not None and self.loss not in MARGIN_LOSSES:
            raise ValueError(f"train.judge_pair_margin: train.loss `{self.loss}` uses no score margins")
        if not self.preference_weight and not self.sft_weight:
            raise ValueError("train.preference_weight and train.sft_weight are both 0: nothing would be trained")
        return self
