"""Training objectives as pure functions of log-probabilities."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812


@dataclass(frozen=True)
class PreferenceTerms:
    """Per-pair quantities of a preference loss, each of shape [pairs].

    Rewards are the implicit ones, beta included: `beta * (log pi - log pi_ref)` summed over a response's tokens.
    """

    loss: torch.Tensor
    preference_loss: torch.Tensor
    reward_chosen: torch.Tensor
    reward_rejected: torch.Tensor


def dpo(
    policy: torch.Tensor, reference: torch.Tensor, lengths: torch.Tensor, beta: float, sft_weight: float = 0.0
) -> PreferenceTerms:
    """Direct preference optimisation (Rafailov et al. 2023, eq. 7), with an optional likelihood term.

    `policy` and `reference` are [pairs, 2] sums of token log-probabilities (chosen, rejected), in nats. The loss of a
    pair is `-log sigmoid(reward_chosen - reward_rejected)`, plus `sft_weight` times the chosen response's mean
    negative log-likelihood per token; `lengths` [pairs] counts the chosen tokens.
    """
    rewards = beta * (policy - reference)
    preference_loss = -F.logsigmoid(rewards[:, 0] - rewards[:, 1])
    loss = preference_loss - sft_weight * policy[:, 0] / lengths if sft_weight else preference_loss
    return PreferenceTerms(loss, preference_loss, rewards[:, 0], rewards[:, 1])
