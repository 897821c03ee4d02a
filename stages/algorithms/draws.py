"""Seeded draws: the one source of chance in the data stages."""

from collections.abc import Sequence

import polars as pl

from stages.contracts.ids import Seeds


def draws(data: pl.DataFrame, keys: Sequence[str], seeds: Seeds, purpose: str) -> pl.Series:
    """One number in [0, 2**63) per row, a function of the row's keys (and of seeds and purpose) alone.

    Sorting by it is a random order that neither the order of the rows nor the number of shards can change.
    """
    numbers = [seeds.of(purpose, *row) for row in data.select(keys).iter_rows()]
    return pl.Series("draw", numbers, dtype=pl.Int64)
