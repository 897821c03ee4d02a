"""Votes to scores: mean, median or expectation, variance and number of the valid votes of each candidate."""

from typing import Literal

import polars as pl

DECIMALS = 9
"""Scores and variances are rounded to this, so that the order of a floating-point sum never makes or breaks a tie."""
CANDIDATE = ["prompt_id", "candidate_id"]


def aggregate(votes: pl.DataFrame, how: Literal["mean", "median", "expected"], min_votes: int) -> pl.DataFrame:
    """One row of table `scores` per candidate from its rows of table `votes`.

    The score is the mean, median or expectation over the valid votes, the variance their population variance
    (Meta-Rewarding, section 2.1, averages the judgements that parse). Both are null, and the status is `few_votes`,
    with fewer than `min_votes` valid votes. The expectation weighs each vote by its judgement's likelihood per token,
    exp(logprob / tokens); candidates with a valid vote of unknown likelihood weigh all votes alike.
    """
    score = pl.col("score")
    weight = pl.col("weight").filter(score.is_not_null())
    centre = {
        "mean": score.mean(),
        "median": score.median(),
        "expected": (score * pl.col("weight")).sum() / weight.sum(),
    }
    enough = pl.col("valid_votes") >= min_votes
    votes = votes.sort(*CANDIDATE, "vote")
    if how == "expected":
        votes = votes.with_columns(_weight().alias("weight"))
    return (
        votes.group_by(CANDIDATE, maintain_order=True)
        .agg(
            centre[how].round(DECIMALS).alias("score"),
            score.var(ddof=0).round(DECIMALS).alias("variance"),
            score.count().cast(pl.Int64).alias("valid_votes"),
            pl.len().cast(pl.Int64).alias("votes"),
        )
        .with_columns(
            pl.when(enough).then(pl.col("score", "variance")),
            status=pl.when(enough).then(pl.lit("ok")).otherwise(pl.lit("few_votes")),
        )
    )


def _weight() -> pl.Expr:
    """Likelihood per token, as a share of the candidate's highest one: a softmax that cannot underflow for all."""
    valid = pl.col("score").is_not_null()
    per_token = pl.when(valid).then(pl.col("logprob") / pl.col("tokens"))
    unknown = (valid & ~per_token.is_finite().fill_null(False)).any().over(CANDIDATE)
    return pl.when(unknown).then(1.0).otherwise((per_token - per_token.max().over(CANDIDATE)).exp())
