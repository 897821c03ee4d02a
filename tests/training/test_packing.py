"""Packed rows hold every prediction once, and show every token what it would see in a row of its own."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.training.packing import Part, Row, common_prefix, pack, packed_length

CPU = torch.device("cpu")


def row(tokens, loss_from):
    weights = np.zeros(len(tokens), np.float32)
    weights[loss_from:] = 1.0
    return Row(np.asarray(tokens), weights)


@st.composite
def pairs(draw):
    """Pairs of rows over a small alphabet, so that responses often begin alike, too."""
    tokens = st.lists(st.integers(1, 3), min_size=1, max_size=6)
    found = []
    for _ in range(draw(st.integers(1, 4))):
        prompt = draw(tokens)
        found.append(tuple(row(prompt + draw(tokens), len(prompt)) for _ in range(2)))
    return found


def seen_by(packing, tokens):
    """For each token of this rank's part, in order, the tokens that it sees, itself last."""
    seen = []
    for block in packing.blocks:
        keys = torch.cat([tokens[k] for k in block.keys]).tolist()
        count = block.queries.stop - block.queries.start
        assert block.queries.start == len(seen), "blocks follow the order of the rank's tokens"
        seen += [keys[: len(keys) - count + 1 + i] for i in range(count)]
    return seen


def predictions(examples):
    """(row, what the model sees, label, weight) of each prediction with weight, from the rows themselves."""
    rows = [row for example in examples for row in example]
    return Counter(
        (number, tuple(r.tokens[:i].tolist()), int(r.tokens[i]), float(r.weights[i]))
        for number, r in enumerate(rows)
        for i in range(1, len(r.tokens))
        if r.weights[i]
    )


def packed_predictions(examples, share, ranks=1, multiple=1):
    """The same from packed rows, over all context-parallel ranks; also the number of tokens."""
    found, size, parts = (
        Counter(),
        0,
        [pack(examples, share, True, Part(r, ranks, multiple), CPU) for r in range(ranks)],
    )
    whole = torch.cat([tokens[0] for tokens, _, _ in parts])
    if ranks > 1:
        whole = whole[parts[0][1].order]
    for tokens, packing, loss in parts:
        seen = seen_by(packing, whole)
        assert len(seen) == tokens.size(1) == len(packing.positions)
        assert packing.positions.tolist() == [len(context) - 1 for context in seen]
        for hidden, *rest in zip(loss.hidden, loss.rows, loss.labels, loss.weights, strict=True):
            number, label, weight = (value.item() for value in rest)
            found[number, tuple(seen[hidden]), label, weight] += 1
        size += tokens.size(1)
    return found, size


@given(pairs(), st.booleans())
def test_every_prediction_is_made_once_in_its_own_context(examples, share):
    found, size = packed_predictions(examples, share)
    assert found == predictions(examples)
    assert size == sum(packed_length(example, share) for example in examples)


@given(pairs(), st.sampled_from([(2, 1), (2, 2), (3, 1)]))
def test_context_parallel_parts_add_up(examples, layout):
    """Position and sight of every token are the same, whichever rank holds it; each rank holds as many tokens."""
    ranks, multiple = layout
    found, size = packed_predictions(examples, True, ranks, multiple)
    assert found == predictions(examples)
    assert size % (2 * ranks * multiple) == 0


def test_a_shared_prompt_is_laid_down_once():
    pair = (row([7, 8, 9, 1, 2], 3), row([7, 8, 9, 3], 3))
    tokens, packing, loss = pack([pair], True, True, Part(), CPU)
    assert tokens.tolist() == [[7, 8, 9, 1]]  # the last token of a row predicts nothing
    assert packing.positions.tolist() == [0, 1, 2, 3]
    assert loss.hidden.tolist() == [2, 3, 2]  # the end of the prompt predicts the first token of both members
    assert loss.labels.tolist() == [1, 2, 3]
    assert loss.rows.tolist() == [0, 0, 1]
    assert pack([pair], False, True, Part(), CPU)[0].tolist() == [[7, 8, 9, 1, 7, 8, 9]]


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [([1, 2, 3], [1, 2, 4], 2), ([1, 2, 3], [5, 2, 3], 0), ([1, 2, 3], [1, 2], 1), ([1, 2], [1, 2], 1)],
)
def test_only_inputs_can_be_shared(one, other, length):
    assert common_prefix([row(one, 0), row(other, 0)]) == length


def test_single_rows_follow_each_other():
    rows = [(row([1, 2, 3], 1),), (row([4, 5], 1),)]
    tokens, packing, _ = pack(rows, True, True, Part(), CPU)
    assert tokens.tolist() == [[1, 2, 4]]
    assert seen_by(packing, tokens[0]) == [[1], [1, 2], [4]]
