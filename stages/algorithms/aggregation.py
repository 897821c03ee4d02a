"""Votes to scores: mean or median, variance and number of the valid votes of each candidate."""

from typing import Literal

import polars as pl

DECIMALS = 9
"""Scores and variances are rounded to this, so that the order of a floating-point sum never makes or breaks a tie."""


def aggregate(votes: pl.DataFrame, how: Literal["mean", "median"], min_votes: int) -> pl.DataFrame:
    """One row of table `scores` per candidate from its rows of table `votes`.

    The score is the mean (or median) over the valid votes, the variance their population variance (Meta-Rewarding,
    section 2.1, averages the judgements that parse). Both are null with fewer than `min_votes` valid votes.
    """
    centre = pl.col("score").mean() if how == "mean" else pl.col("score").median()
    enough = pl.col("valid_votes") >= min_votes
    return (
        votes.sort("prompt_id", "candidate_id", "vote")
        .group_by("prompt_id", "candidate_id", maintain_order=True)
        .agg(
            centre.round(DECIMALS).alias("score"),
            pl.col("score").var(ddof=0).round(DECIMALS).alias("variance"),
            pl.col("score").count().cast(pl.Int64).alias("valid_votes"),
            pl.len().cast(pl.Int64).alias("votes"),
        )
        .with_columns(pl.when(enough).then(pl.col("score", "variance")))
    )
