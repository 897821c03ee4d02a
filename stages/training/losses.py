"""Training objectives as pure functions of log-probabilities."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812

from stages.config.training import PreferenceLoss


@dataclass(frozen=True)
class PairLoss:
    """The preference loss of a pair: which one, and its constants, as in the configuration's `train` section."""

    kind: PreferenceLoss = "dpo"
    label_smoothing: float = 0.0
    length_normalised: bool = False
    margin_scale: float = 1.0
    weight: float = 1.0
    """Its weight beside the likelihood of the chosen response; 0 leaves that alone."""


DPO = PairLoss()


@dataclass(frozen=True)
class PreferenceTerms:
    """Per-pair quantities of a preference loss, each of shape [pairs].

    Rewards are the implicit ones, beta included: `beta * (log pi - log pi_ref)`, summed over a response's tokens, or
    their mean with `length_normalised`.
    """

    loss: torch.Tensor
    preference_loss: torch.Tensor
    reward_chosen: torch.Tensor
    reward_rejected: torch.Tensor


def preference_terms(
    policy: torch.Tensor,
    reference: torch.Tensor,
    lengths: torch.Tensor,
    score_margins: torch.Tensor,
    beta: float,
    sft_weight: float = 0.0,
    pair_loss: PairLoss = DPO,
) -> PreferenceTerms:
    """The preference loss of each pair, with an optional likelihood term.

    `policy` and `reference` are [pairs, 2] sums of token log-probabilities (chosen, rejected), in nats, over `lengths`
    [pairs, 2] tokens; `score_margins` [pairs] as in `preference_loss`. The preference loss counts `pair_loss.weight`
    times; added is `sft_weight` times the chosen response's mean negative log-likelihood per token.
    """
    rewards = implicit_rewards(policy, reference, lengths, beta, pair_loss)
    preferred = preference_loss(rewards[:, 0] - rewards[:, 1], score_margins, beta, pair_loss)
    loss = pair_loss.weight * preferred
    if sft_weight:
        loss = loss - sft_weight * policy[:, 0] / lengths[:, 0]
    return PreferenceTerms(loss, preferred, rewards[:, 0], rewards[:, 1])


def implicit_rewards(
    policy: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor, beta: float, pair_loss: PairLoss
) -> torch.Tensor:
    """`beta * (log pi - log pi_ref)` of each response, all of one shape; per token with `length_normalised`."""
    rewards = beta * (policy - reference)
    return rewards / lengths if pair_loss.length_normalised else rewards


def preference_loss(margins: torch.Tensor, score_margins: torch.Tensor, beta: float, loss: PairLoss) -> torch.Tensor:
    """The loss [pairs] at reward margins `margins` [pairs]: chosen minus rejected implicit reward, beta included.

    `score_margins` [pairs] are the judge scores' differences, chosen minus rejected; only `scale` and `rpo_*` use them.
    `dpo`: Rafailov et al. 2023, eq. 7, with label smoothing the conservative DPO of Mitchell 2023; `scale`: DPO times
    the absolute score margin; `ipo`: Azar et al. 2023, eq. 17; `rpo_*`: reward-aware preference optimisation
    (Nemotron-4 340B technical report, 2024): the squared distance of reward margin and scaled score margin, or the
    divergence of the preference probabilities that the two stand for.
    """
    target = loss.margin_scale * score_margins
    match loss.kind:
        case "dpo" if loss.label_smoothing:
            share = loss.label_smoothing
            return -(1 - share) * F.logsigmoid(margins) - share * F.logsigmoid(-margins)
        case "dpo":
            return -F.logsigmoid(margins)
        case "scale":
            return score_margins.abs() * -F.logsigmoid(margins)
        case "ipo":
            return (margins / beta - 1 / (2 * beta)) ** 2
        case "rpo_sq":
            return (margins - target) ** 2
        case "rpo_bwd_kl":
            return _bernoulli_divergence(target, margins)
        case "rpo_fwd_kl":
            return _bernoulli_divergence(margins, target)


def _bernoulli_divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(Bernoulli(sigmoid(p)) || Bernoulli(sigmoid(q))) in nats, from log-odds."""
    return torch.sigmoid(p) * (F.logsigmoid(p) - F.logsigmoid(q)) + torch.sigmoid(-p) * (
        F.logsigmoid(-p) - F.logsigmoid(-q)
    )
