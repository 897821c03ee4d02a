"""What a micro-batch's token log-probabilities mean: the loss to minimise and the sums that metrics are made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from stages.config.training import MARGIN_LOSSES
from stages.megatron.batches import Example, MicroBatch
from stages.megatron.losses import DPO, PairLoss, preference_terms

Sums = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Objective:
    """A loss over a global batch.

    `normaliser(batch)` is the batch's total weight; `loss(row_logprobs, micro_batch)` gives the micro-batch's summed
    loss and sums per metric, all to be divided by that total. `row_logprobs` is [rows]: each row's weighted sum of
    token log-probabilities.
    """

    normaliser: Callable[[Sequence[Example]], float]
    loss: Callable[[torch.Tensor, MicroBatch], tuple[torch.Tensor, Sums]]


def sft() -> Objective:
    """Mean negative log-likelihood per weighted token."""

    def loss(row_logprobs: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, Sums]:
        total = -(row_logprobs * batch.example_weights).sum()
        return total, {"sft_loss": total.detach()}

    return Objective(lambda batch: sum(example.loss_weight for example in batch), loss)


def preference(beta: float, sft_weight: float, pair_loss: PairLoss = DPO) -> Objective:
    """Mean preference loss over pairs; `scale` and `rpo_*` need pairs with score margins."""

    def loss(row_logprobs: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, Sums]:
        policy = row_logprobs.view(-1, 2)
        lengths = batch.row_lengths.view(-1, 2)
        terms = preference_terms(policy, batch.reference, lengths, batch.score_margins, beta, sft_weight, pair_loss)
        with torch.no_grad():
            per_pair = {
                "loss": terms.loss,
                "preference_loss": terms.preference_loss,
                "accuracy": (terms.reward_chosen > terms.reward_rejected).float(),
                "reward_margin": terms.reward_chosen - terms.reward_rejected,
                "reward_chosen": terms.reward_chosen,
                "reward_rejected": terms.reward_rejected,
                "logprob_chosen": policy[:, 0],
                "logprob_rejected": policy[:, 1],
                "tokens_chosen": lengths[:, 0],
                "tokens_rejected": lengths[:, 1],
            }
            if pair_loss.kind in MARGIN_LOSSES:
                per_pair["score_margin"] = batch.score_margins
            sums = {name: (value * batch.example_weights).sum() for name, value in per_pair.items()}
        return (terms.loss * batch.example_weights).sum(), sums

    return Objective(lambda batch: sum(example.weight for example in batch), loss)
