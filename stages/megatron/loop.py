"""Forward, backward, step: Megatron's schedules and optimizer under NeMo's learning-rate schedule."""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.tensor_parallel import reduce_from_tensor_model_parallel_region

from stages.config import MegatronSettings, OptimizerSettings, resolved
from stages.megatron.cpu import cuda_or_cpu
from stages.megatron.launch import quietly_imported
from stages.megatron.parallel import Rank, batch_layout
from stages.megatron.policy import PolicyModel
from stages.megatron.skipped_steps import SKIPPED
from stages.training.batches import Example, MicroBatch, micro_batches, rank_share
from stages.training.objectives import Objective, Sums


class Trainer:
    """A model with its optimizer and schedule; `step` trains on one global batch."""

    def __init__(
        self,
        chunks: Sequence[PolicyModel],
        megatron: MegatronSettings,
        settings: OptimizerSettings,
        steps: int,
        rank: Rank,
    ):
        self.rank, self.megatron = rank, megatron
        model = chunks[0].config
        config = OptimizerConfig(
            optimizer="adam",
            lr=resolved(settings.learning_rate),
            weight_decay=settings.weight_decay,
            adam_beta1=settings.beta1,
            adam_beta2=settings.beta2,
            clip_grad=settings.clip_grad,
            params_dtype=model.params_dtype,
            bf16=model.bf16,
            use_distributed_optimizer=megatron.distributed_optimizer,
        )
        ddp = DistributedDataParallelConfig(
            grad_reduce_in_fp32=True, use_distributed_optimizer=megatron.distributed_optimizer
        )
        with cuda_or_cpu():
            self.chunks = [DistributedDataParallel(model, ddp, chunk) for chunk in chunks]
            self.optimizer = get_megatron_optimizer(config, self.chunks)
        # Megatron's own schedule would apply it; NeMo's does not: norms and biases are not decayed.
        for group in self.optimizer.param_groups:
            group["weight_decay"] *= group["wd_mult"]
        model.finalize_model_grads_func = finalize_model_grads
        no_sync = [chunk.no_sync for chunk in self.chunks]
        model.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]
        self.schedules = _schedules(self.optimizer, settings, steps)

    def step(self, batch: Sequence[Example], objective: Objective) -> dict[str, float]:
        """One optimizer step; returns metrics over the global batch, the same on every rank.

        A step whose loss or gradient is not finite changes no weight; it counts in the schedule, and as `skipped`.
        """
        # PyTorch warns that no step gets the schedule's value 0. None is meant to: warm-up begins at a rate of 0, with
        # which a step would learn nothing. Step t has value t; the last one is at the floor.
        with warnings.catch_warnings(action="ignore"):
            for schedule in self.schedules:
                schedule.step()
        for chunk in self.chunks:
            chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        metrics = run_batch(self.chunks, batch, objective, self.megatron, self.rank, forward_only=False)
        gradient_norm, updated = _update(self.optimizer, metrics.values(), self.rank)
        return {
            **metrics,
            "gradient_norm": gradient_norm,
            "learning_rate": self.schedules[0].get_last_lr()[0],
            SKIPPED: float(not updated),
        }


def _update(optimizer: Any, metrics: Iterable[float], rank: Rank) -> tuple[float, bool]:
    """Let Megatron's optimizer step if the step's metrics and gradient are finite; returns the gradient's norm (before
    clipping) and whether it stepped.

    Neither weights nor moments change otherwise: without loss scaling Megatron's optimizer itself looks for no
    infinities, and clipping by a NaN norm would make every weight NaN. All ranks decide alike.
    """
    with cuda_or_cpu():
        overflow = optimizer.prepare_grads()
        norm = float(optimizer.get_grad_norm())
        good = not overflow and all(math.isfinite(value) for value in (*metrics, norm))
        agreed = torch.tensor(float(good), device=rank.device)
        torch.distributed.all_reduce(agreed, torch.distributed.ReduceOp.MIN)
        if agreed:
            optimizer.step()
    return norm, bool(agreed)


def run_batch(
    chunks: Sequence[Any],
    batch: Sequence[Example],
    objective: Objective,
    settings: MegatronSettings,
    rank: Rank,
    forward_only: bool,
) -> dict[str, float]:
    """Forward (and backward) over this rank's share of a global batch; returns the objective's means over all ranks."""
    share = micro_batches(
        rank_share(batch, rank.data_rank, rank.data_size),
        settings.micro_batch_tokens,
        rank.device,
        batch_layout(settings),
        multiple=settings.pipeline_parallel if len(chunks) > 1 else 1,
    )
    normaliser = objective.normaliser(batch)
    iterators = [iter(share) for _ in chunks]
    with cuda_or_cpu():
        sums = get_forward_backward_func()(
            forward_step_func=partial(_forward_step, objective=objective, normaliser=normaliser),
            data_iterator=iterators if len(chunks) > 1 else iterators[0],
            model=list(chunks),
            num_microbatches=len(share),
            seq_length=max(part.tokens.size(1) for part in share) * settings.context_parallel,
            micro_batch_size=share[0].tokens.size(0),
            forward_only=forward_only,
        )
    return {name: value / normaliser for name, value in _reduce(sums, rank).items()}


def row_logprobs(token_logprobs: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
    """Each row's weighted sum of token log-probabilities: [n] -> [rows]; of a split pack all ranks' parts together."""
    rows = torch.zeros(len(batch.row_lengths), device=token_logprobs.device)
    rows = rows.index_add(0, batch.loss.rows, token_logprobs * batch.loss.weights)
    if parallel_state.get_context_parallel_world_size() > 1:
        # Forward a sum, backward the identity: each rank goes on with the gradient of its own part.
        rows = reduce_from_tensor_model_parallel_region(rows, group=parallel_state.get_context_parallel_group())
    return rows


def _forward_step(data: Iterator[MicroBatch], model: Any, objective: Objective, normaliser: float) -> Any:
    batch = next(data)
    output = model(batch.tokens, None, None, labels=batch.loss, packed_seq_params=batch.packing)

    def loss_function(token_logprobs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Sums]:
        loss, sums = objective.loss(row_logprobs(token_logprobs, batch), batch)
        # The count is 0 on purpose: the loss is normalised already, and Megatron only sums gradients over replicas.
        return loss / normaliser, torch.zeros([], dtype=torch.int), sums

    return output, loss_function


def _reduce(sums: list[Sums], rank: Rank) -> dict[str, float]:
    """Add up the micro-batches' sums over all replicas; the last pipeline stage knows them and tells the others."""
    names = [sorted(sums[0]) if sums else []]
    group = parallel_state.get_pipeline_model_parallel_group()
    last = parallel_state.get_pipeline_model_parallel_last_rank()
    torch.distributed.broadcast_object_list(names, src=last, group=group)
    total = torch.zeros(len(names[0]), dtype=torch.float64, device=rank.device)
    for part in sums:
        for i, name in enumerate(names[0]):
            total[i] += part[name].double()
    torch.distributed.all_reduce(total, group=parallel_state.get_data_parallel_group())
    torch.distributed.broadcast(total, src=last, group=group)
    return dict(zip(names[0], total.tolist(), strict=True))


def _schedules(optimizer: Any, settings: OptimizerSettings, steps: int) -> list[Any]:
    """NeMo's cosine schedule (warm-up, cosine, constant floor) over each of Megatron's inner optimizers."""
    nemo = quietly_imported("nemo.core.optim.lr_scheduler")  # costs seconds, and only training needs it
    warmup = min(settings.warmup_steps, steps - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            nemo.CosineAnnealing(
                inner.optimizer,
                max_steps=steps,
                warmup_steps=warmup,
                constant_steps=min(settings.constant_steps, steps - warmup - 1),
                min_lr=settings.min_learning_rate_ratio * resolved(settings.learning_rate),
            )
            for inner in getattr(optimizer, "chained_optimizers", [optimizer])
        ]
