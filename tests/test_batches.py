"""Batches lose no example, count none twice, and put loss on response tokens alone."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.megatron.batches import Example, Row, micro_batches, plan_steps, rank_share

CPU = torch.device("cpu")


def example(number, length, rows=2):
    tokens = np.arange(length) + number
    return Example(f"pair-{number}", tuple(Row(tokens, np.ones(length, np.float32)) for _ in range(rows)), (-1.0, -2.0))


LENGTHS = st.lists(st.integers(2, 60), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 3), st.integers(0, 5))
def test_each_epoch_holds_every_example_once(lengths, batch_size, epochs, seed):
    examples = [example(i, n) for i, n in enumerate(lengths)]
    steps = plan_steps(examples, batch_size, epochs, seed)
    assert Counter(e.key for batch in steps for e in batch) == {e.key: epochs for e in examples}
    assert all(len(batch) <= batch_size for batch in steps)
    reordered = plan_steps(examples[::-1], batch_size, epochs, seed)
    assert [[e.key for e in b] for b in reordered] == [[e.key for e in b] for b in steps]


@given(LENGTHS, st.integers(1, 6))
def test_ranks_share_a_batch_without_overlap(lengths, size):
    batch = [example(i, n) for i, n in enumerate(lengths)]
    shares = [rank_share(batch, rank, size) for rank in range(size)]
    assert all(shares), "every rank needs something to compute, even if it counts for nothing"
    counted = Counter(e.key for share in shares for e in share if e.weight)
    assert counted == Counter(e.key for e in batch)


@given(LENGTHS, st.integers(10, 400))
def test_micro_batches_respect_the_token_budget(lengths, budget):
    share = [example(i, n) for i, n in enumerate(lengths)]
    parts = micro_batches(share, budget, CPU)
    assert sorted(key for part in parts for key in part.keys) == sorted(e.key for e in share)
    for part in parts:
        assert part.tokens.numel() <= budget or len(part.keys) == 1
        assert part.tokens.shape == part.labels.shape == part.weights.shape
        assert len(part.tokens) == 2 * len(part.keys)


def test_labels_are_the_next_tokens_and_padding_has_no_weight():
    short = Example("a", (Row(np.array([5, 6, 7]), np.array([0, 0, 1], np.float32)),))
    long = Example("b", (Row(np.array([1, 2, 3, 4]), np.array([0, 1, 1, 1], np.float32)),))
    (part,) = micro_batches([short, long], 100, CPU)
    assert part.keys == ["a", "b"]
    assert part.tokens.tolist() == [[5, 6, 0], [1, 2, 3]]
    assert part.labels.tolist() == [[6, 7, 0], [2, 3, 4]]
    assert part.weights.tolist() == [[0, 1, 0], [1, 1, 1]]
