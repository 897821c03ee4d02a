"""Validation: what is held out, the standing of the best step, and losses that are not finite."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.config import ValidationSettings
from stages.contracts.errors import StageError
from stages.contracts.ids import split_position
from stages.training.batches import Example, Row
from stages.training.objectives import preference
from stages.training.validation import Standing, Validation, hold_out


@pytest.mark.parametrize("settings", [{"patience": 1}, {"keep": "best"}])
def test_what_validation_decides_needs_held_out_data(settings):
    with pytest.raises(ValueError, match=r"need validation\.fraction above 0"):
        ValidationSettings(**settings)


def pair(prompt, number):
    rows = tuple(Row(np.arange(3), np.array([0, 1, 1], np.float32)) for _ in range(2))
    return Example(f"{prompt}-{number}", rows, (0.0, 0.0), prompt=prompt)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3)), unique=True), st.floats(0, 0.99), st.randoms())
def test_a_prompt_is_on_one_side_whatever_the_order(keys, fraction, random):
    examples = [pair(f"p{prompt}", number) for prompt, number in keys]
    kept, held_out = hold_out(examples, fraction)
    assert sorted(e.key for e in kept + held_out) == sorted(e.key for e in examples)
    assert not {e.prompt for e in kept} & {e.prompt for e in held_out}
    shuffled = random.sample(examples, len(examples))
    assert {e.key for e in hold_out(shuffled, fraction)[1]} == {e.key for e in held_out}
    assert held_out == [] or fraction > 0


def test_the_share_held_out_is_the_one_asked_for_and_no_other_split_shifts_it():
    """Prompts to train on are those that an earlier split left: the same hash would hold out none of them."""
    prompts = [pair(f"p{number}", 0) for number in range(20_000) if split_position(f"p{number}") >= 0.2]
    held_out = hold_out(prompts, 0.1)[1]
    assert len(held_out) / len(prompts) == pytest.approx(0.1, abs=0.01)


def test_the_standing_remembers_the_best_step():
    standing = Standing()
    for step, loss in ((2, 0.7), (4, 0.6), (6, 0.6), (8, 0.65)):
        standing = standing.after(step, loss)
    assert standing == Standing(best_loss=0.6, best_step=4, failures=2)
    assert standing.after(10, 0.5) == Standing(0.5, 10, 0)


def alone(seen):
    """What all ranks have seen, where there is one."""
    return [seen]


def test_a_validation_loss_that_is_not_finite_stops_the_training():
    def broken(examples, objective):
        raise AssertionError

    def infinite(examples, objective):
        return {"loss": math.inf, **{f"reward_{side}{end}": 0.0 for side in ("chosen", "rejected")
                                     for end in ("", "_square")}}  # fmt: skip

    settings = ValidationSettings(fraction=0.5)
    assert not Validation(settings, [], [], preference(0.1, 0.0), broken, alone).due(50, 100)
    with pytest.raises(StageError, match="validation/loss is not finite after step 50"):
        Validation(settings, [pair("p", 0)], [], preference(0.1, 0.0), infinite, alone).measure(50)
