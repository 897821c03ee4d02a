"""Forward, backward, step: Megatron's schedules and optimizer under NeMo's learning-rate schedule."""

import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
from megatron.core.pipeline_parallel import get_forward_backward_func

from stages.config import OptimizerSettings
from stages.megatron.bad_steps import SKIPPED, update
from stages.megatron.batches import Example, MicroBatch, micro_batches, rank_share
from stages.megatron.cpu import cuda_or_cpu
from stages.megatron.objectives import Objective, Sums
from stages.megatron.parallel import Rank


class Trainer:
    """A model with its optimizer and schedule; `step` trains on one global batch."""

    def __init__(self, model: GPTModel, settings: OptimizerSettings, learning_rate: float, steps: int, rank: Rank):
        self.rank = rank
        precision = {"bf16": model.config.bf16}
        config = OptimizerConfig(
            optimizer="adam",
            lr=learning_rate,
            weight_decay=settings.weight_decay,
            adam_beta1=settings.beta1,
            adam_beta2=settings.beta2,
            clip_grad=settings.clip_grad,
            params_dtype=model.config.params_dtype,
            **precision,
        )
        with cuda_or_cpu():
            ddp_config = DistributedDataParallelConfig(grad_reduce_in_fp32=True)
            self.model = DistributedDataParallel(model.config, ddp_config, model)
            self.chunks = [self.model]
            self.optimizer = get_megatron_optimizer(config, self.chunks)
        model.config.finalize_model_grads_func = finalize_model_grads
        model.config.no_sync_func = self.model.no_sync
        self.schedules = _schedules(self.optimizer, settings, learning_rate, steps)

    def step(self, batch: Sequence[Example], objective: Objective, token_budget: int) -> dict[str, float]:
        """One optimizer step; returns metrics over the global batch, the same on every rank.

        A step whose loss or gradient is not finite changes no weight; it counts in the schedule, and as `skipped`.
        """
        for schedule in self.schedules:
            schedule.step()
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()
        metrics = run_batch(self.model, batch, objective, token_budget, self.rank, forward_only=False)
        gradient_norm, updated = update(self.optimizer, metrics.values(), self.rank)
        return {
            **metrics,
            "gradient_norm": gradient_norm,
            "learning_rate": self.schedules[0].get_last_lr()[0],
            SKIPPED: float(not updated),
        }


def run_batch(
    model: Any, batch: Sequence[Example], objective: Objective, token_budget: int, rank: Rank, forward_only: bool
) -> dict[str, float]:
    """Forward (and backward) over this rank's share of a global batch; returns the objective's means over all ranks."""
    share = micro_batches(rank_share(batch, rank.data_rank, rank.data_size), token_budget, rank.device)
    normaliser = objective.normaliser(batch)
    with cuda_or_cpu():
        sums = get_forward_backward_func()(
            forward_step_func=partial(_forward_step, objective=objective, normaliser=normaliser),
            data_iterator=iter(share),
            model=[model],
            num_microbatches=len(share),
            seq_length=max(part.tokens.size(1) for part in share),
            micro_batch_size=share[0].tokens.size(0),
            forward_only=forward_only,
        )
    return {name: value / normaliser for name, value in _reduce(sums, rank).items()}


def row_logprobs(token_losses: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
    """Weighted sum of token log-probabilities of each row: [rows, s] cross entropies -> [rows]."""
    return -(token_losses.float() * batch.weights).sum(dim=1)


def _forward_step(data: Iterator[MicroBatch], model: Any, objective: Objective, normaliser: float) -> Any:
    batch = next(data)
    output = model(batch.tokens, None, None, labels=batch.labels)

    def loss_function(token_losses: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Sums]:
        loss, sums = objective.loss(row_logprobs(token_losses, batch), batch)
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


def _schedules(optimizer: Any, settings: OptimizerSettings, learning_rate: float, steps: int) -> list[Any]:
    """NeMo's cosine schedule (warm-up, cosine, constant floor) over each of Megatron's inner optimizers."""
    from nemo.core.optim.lr_scheduler import CosineAnnealing  # costs seconds to import, and only training needs it

    warmup = min(settings.warmup_steps, steps - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            CosineAnnealing(
                inner.optimizer,
                max_steps=steps,
                warmup_steps=warmup,
                constant_steps=min(settings.constant_steps, steps - warmup - 1),
                min_lr=settings.min_learning_rate_ratio * learning_rate,
            )
            for inner in getattr(optimizer, "chained_optimizers", [optimizer])
        ]
