"""The DPO loss against numbers worked out by hand and against the paper's formula."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.megatron.losses import dpo

LOGPROB = st.floats(-200, 0)


def pair(policy, reference, beta, **options):
    return dpo(torch.tensor([policy]), torch.tensor([reference]), torch.tensor([4.0]), beta, **options)


@pytest.mark.parametrize(("beta", "expected"), [(0.1, 0.62095705), (0.5, 0.38687101)])
def test_published_vector(beta, expected):
    """Sums pi -12 / -15 and reference -13 / -14.5: h_c = 1, h_r = -0.5, so the loss is -log sigmoid(1.5 beta)."""
    terms = pair([-12.0, -15.0], [-13.0, -14.5], beta)
    assert terms.loss.item() == pytest.approx(expected, abs=1e-6)
    assert terms.loss.item() == pytest.approx(-math.log(1 / (1 + math.exp(-1.5 * beta))), abs=1e-6)
    assert terms.reward_chosen.item() == pytest.approx(beta * 1.0)
    assert terms.reward_rejected.item() == pytest.approx(beta * -0.5)


def test_equal_policies_give_ln_2():
    assert pair([-7.0, -9.0], [-7.0, -9.0], 0.3).loss.item() == pytest.approx(math.log(2), abs=1e-7)


def test_likelihood_term_is_per_chosen_token():
    """-12 over 4 tokens is 3 nats per token; half of it is added."""
    plain, added = (pair([-12.0, -15.0], [-13.0, -14.5], 0.1, sft_weight=w).loss.item() for w in (0.0, 0.5))
    assert added - plain == pytest.approx(0.5 * 3.0, abs=1e-5)


@given(LOGPROB, LOGPROB, LOGPROB, LOGPROB, st.floats(0.01, 1))
def test_swapping_the_members_reflects_the_margin(pc, pr, rc, rr, beta):
    """loss(margin) - loss(-margin) = -margin, because log sigmoid(x) - log sigmoid(-x) = x."""
    forward, backward = pair([pc, pr], [rc, rr], beta), pair([pr, pc], [rr, rc], beta)
    margin = (forward.reward_chosen - forward.reward_rejected).item()
    assert forward.loss.item() - backward.loss.item() == pytest.approx(-margin, rel=1e-4, abs=1e-4)
    assert forward.loss.item() >= 0


def test_gradient_is_the_papers():
    """d loss / d pi_chosen = -beta sigmoid(reward_rejected - reward_chosen) (Rafailov et al. 2023, section 4)."""
    policy = torch.tensor([[-12.0, -15.0]], requires_grad=True)
    terms = dpo(policy, torch.tensor([[-13.0, -14.5]]), torch.tensor([4.0]), 0.1)
    terms.loss.sum().backward()
    expected = 0.1 / (1 + math.exp(0.15))
    assert policy.grad is not None
    assert policy.grad.tolist()[0] == pytest.approx([-expected, expected], rel=1e-5)
