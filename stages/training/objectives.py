"""What training minimises, and the metrics that come with it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from stages.config.training import MARGIN_LOSSES
from stages.training.batches import Example, MicroBatch
from stages.training.losses import DPO, PairLoss, PreferenceTerms, preference_terms

Sums = dict[str, torch.Tensor]
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Objective:
    """A loss over a global batch.

    `normaliser(batch)` is the batch's total weight; `loss(row_logprobs, micro_batch)` gives the micro-batch's summed
    loss and sums per metric, all to be divided by that total. `row_logprobs` is [rows]: each row's weighted sum of
    token log-probabilities. `summary` makes metrics of the means over a global batch: what is no mean itself, such as a
    standard deviation, must be computed from the means of all ranks together, or it would depend on their number.
    """

    normaliser: Callable[[Sequence[Example]], float]
    loss: Callable[[torch.Tensor, MicroBatch], tuple[torch.Tensor, Sums]]
    summary: Callable[[dict[str, float]], dict[str, float]] = dict


def sft() -> Objective:
    """Mean negative log-likelihood per weighted token."""

    def loss(row_logprobs: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, Sums]:
        total = -(row_logprobs * batch.example_weights).sum()
        return total, {"loss": total.detach(), "sft_loss": total.detach()}

    return Objective(lambda batch: sum(example.loss_weight for example in batch), loss)


def preference(beta: float, sft_weight: float, pair_loss: PairLoss = DPO) -> Objective:
    """Mean preference loss over pairs; `scale` and `rpo_*` need pairs with score margins."""

    def loss(row_logprobs: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, Sums]:
        policy = row_logprobs.view(-1, 2)
        lengths = batch.row_lengths.view(-1, 2)
        terms = preference_terms(policy, batch.reference, lengths, batch.score_margins, beta, sft_weight, pair_loss)
        with torch.no_grad():
            per_pair = _pair_values(terms, policy, lengths, batch)
            if pair_loss.kind in MARGIN_LOSSES:
                per_pair["score_margin"] = batch.score_margins
            # In double precision: the difference of the mean square and the squared mean loses half of the digits.
            sums = {name: (value.double() * batch.example_weights).sum() for name, value in per_pair.items()}
        return (terms.loss * batch.example_weights).sum(), sums

    return Objective(lambda batch: sum(example.weight for example in batch), loss, pair_summary)


def _pair_values(terms: PreferenceTerms, policy: torch.Tensor, lengths: torch.Tensor, batch: MicroBatch) -> Sums:
    """What is averaged over the pairs, each [pairs]; `policy` and `lengths` are [pairs, 2]."""
    rewards = torch.stack((terms.reward_chosen, terms.reward_rejected), dim=1)
    values = {
        "loss": terms.loss,
        "preference_loss": terms.preference_loss,
        "sft_loss": -policy[:, 0] / lengths[:, 0],
        "accuracy": (terms.reward_chosen > terms.reward_rejected).float(),
        "reward_margin": terms.reward_chosen - terms.reward_rejected,
        "kl_reference": (batch.reference - policy).mean(dim=1),
    }
    for i, side in enumerate(SIDES):
        values[f"reward_{side}"] = rewards[:, i]
        values[f"reward_{side}_square"] = rewards[:, i].double() ** 2
        values[f"logprob_{side}"] = policy[:, i]
        values[f"tokens_{side}"] = lengths[:, i]
    return {**values, **batch.facts}


def pair_facts(kind: str, scores: Sequence[float | None]) -> dict[str, float]:
    """Facts of a pair: whether it is a judge pair, and the judge scores of its members if both have one.

    The scores that two judgements give are not scores of the members of a judge pair: it has none.
    """
    known = [score for score in scores if score is not None] if kind != "judge" else []
    scored = len(known) == len(SIDES)
    own = known if scored else (0.0, 0.0)
    facts = {f"score_{side}": float(score) for side, score in zip(SIDES, own, strict=True)}
    return {"judge_share": float(kind == "judge"), "scored": float(scored), **facts}


def pair_summary(means: dict[str, float]) -> dict[str, float]:
    """Metrics from means over pairs: standard deviations from mean squares, mean scores over the pairs that have some
    (no such metric where none has)."""
    values = dict(means)
    scored = values.pop("scored", 0.0)
    for side in SIDES:
        variance = values.pop(f"reward_{side}_square") - values[f"reward_{side}"] ** 2
        values[f"reward_{side}_std"] = math.sqrt(max(0.0, variance))
        total = values.pop(f"score_{side}", 0.0)
        if scored:
            values[f"score_{side}"] = total / scored
    return values
