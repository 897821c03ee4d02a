"""Batches lose no example, count none twice, and put loss on response tokens alone."""

from collections import Counter

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.training.batches import Example, Layout, Row, micro_batches, plan_steps, rank_share

CPU = torch.device("cpu")


def example(number, length, rows=2):
    tokens = np.arange(length) + number
    return Example(f"pair-{number}", tuple(Row(tokens, np.ones(length, np.float32)) for _ in range(rows)), (-1.0, -2.0))


LENGTHS = st.lists(st.integers(2, 60), min_size=1, max_size=40)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 3), st.integers(0, 5))
def test_each_epoch_holds_every_example_once(lengths, batch_size, epochs, seed):
    """D21: what did not fill a batch, or a rank's share, was dropped."""
    examples = [example(i, n) for i, n in enumerate(lengths)]
    steps = plan_steps(examples, batch_size, epochs, seed)
    assert Counter(e.key for batch in steps for e in batch) == {e.key: epochs for e in examples}
    assert all(len(batch) <= batch_size for batch in steps)
    reordered = plan_steps(examples[::-1], batch_size, epochs, seed)
    assert [[e.key for e in b] for b in reordered] == [[e.key for e in b] for b in steps]


@given(LENGTHS, st.integers(1, 6))
def test_ranks_share_a_batch_without_overlap(lengths, size):
    """D22: ranks diverged in work."""
    batch = [example(i, n) for i, n in enumerate(lengths)]
    shares = [rank_share(batch, rank, size) for rank in range(size)]
    assert all(shares), "every rank needs something to compute, even if it counts for nothing"
    counted = Counter(e.key for share in shares for e in share if e.weight)
    assert counted == Counter(e.key for e in batch)


@given(LENGTHS, st.integers(10, 400), st.sampled_from([Layout(), Layout(packing=False), Layout(share_prompts=False)]))
def test_micro_batches_respect_the_token_budget(lengths, budget, layout):
    share = [example(i, n) for i, n in enumerate(lengths)]
    parts = micro_batches(share, budget, CPU, layout)
    assert sorted(key for part in parts for key in part.keys) == sorted(e.key for e in share)
    for part in parts:
        assert part.tokens.numel() <= budget or len(part.keys) == 1
        assert len(part.row_lengths) == 2 * len(part.keys)


@given(LENGTHS, st.integers(1, 4))
def test_empty_micro_batches_fill_up_to_a_multiple_and_count_for_nothing(lengths, multiple):
    share = [example(i, n) for i, n in enumerate(lengths)]
    parts = micro_batches(share, 50, CPU, multiple=multiple)
    assert len(parts) % multiple == 0
    counted = Counter(
        key for part in parts for key, weight in zip(part.keys, part.example_weights, strict=True) if weight
    )
    assert counted == Counter(e.key for e in share)


def test_padded_rows_predict_the_next_tokens():
    short = Example("a", (Row(np.array([5, 6, 7]), np.array([0, 0, 1], np.float32)),))
    long = Example("b", (Row(np.array([1, 2, 3, 4]), np.array([0, 1, 1, 0.5], np.float32)),))
    (part,) = micro_batches([short, long], 100, CPU, Layout(packing=False))
    assert part.keys == ["a", "b"]
    assert part.packing is None
    assert part.tokens.tolist() == [[5, 6, 0], [1, 2, 3]]
    # Megatron lays the sequence first: the predicting token at position p of row r is at 2 p + r.
    assert part.loss.hidden.tolist() == [2, 1, 3, 5]
    assert part.loss.labels.tolist() == [7, 2, 3, 4]
    assert part.loss.weights.tolist() == [1, 1, 1, 0.5]
    assert part.loss.rows.tolist() == [0, 1, 1, 1]
    assert part.row_lengths.tolist() == [1, 2.5]
