"""Votes and passed checks to scores: one for each candidate."""

from typing import Literal

import polars as pl

from stages.config import ScoreSection
from stages.tables import SCORES, VOTES

DECIMALS = 9
"""Scores and variances are rounded to this, so that the order of a floating-point sum never makes or breaks a tie."""


def passed_shares(verifications: pl.DataFrame) -> pl.DataFrame:
    """`prompt_id`, `candidate_id`, `passed` (share of the checks, in [0, 1]) from rows of table `verifications`."""
    return verifications.group_by(SCORES.key).agg(pl.col("passed").mean())


def scores(votes: pl.DataFrame, passed: pl.DataFrame, shortened: pl.DataFrame, settings: ScoreSection) -> pl.DataFrame:
    """Rows of table `scores` for the candidates in `votes` and in `passed` (rows of `passed_shares`).

    The score of a candidate in `passed` is what `settings.combine` makes of its checks and its votes; one in
    `shortened` (by its keys) has none by votes: the judge did not see all of it.
    """
    unseen = shortened.select(*SCORES.key, unseen=pl.lit(True))
    judged = (
        aggregate(votes, settings.aggregate, settings.min_votes)
        .join(passed, on=SCORES.key, how="full", coalesce=True)
        .join(unseen, on=SCORES.key, how="left")
        .with_columns(
            pl.col("valid_votes", "votes").fill_null(0),
            score=pl.when(pl.col("unseen").is_null()).then("score"),
            status=pl.when("unseen").then(pl.lit("shortened")).otherwise(pl.col("status").fill_null("few_votes")),
        )
    )
    checked = pl.col("passed").is_not_null() & (settings.combine != "judge")
    combined = _combined(settings).round(DECIMALS)
    return judged.with_columns(
        score=pl.when(checked).then(combined).otherwise("score"),
        status=pl.when(checked & combined.is_not_null()).then(pl.lit("verified")).otherwise("status"),
    ).select(list(SCORES.columns))


def _combined(settings: ScoreSection) -> pl.Expr:
    """The score of a candidate by its `passed` share and its `score` by votes, on the judge's scale.

    `checks` maps the share onto the scale. `gate` puts candidates that pass all checks into the upper half, in the
    order of their votes, and all others into the lower half, in the order of their shares: no vote can lift an answer
    that fails over one that passes. `sum` is the mean of both, the votes with the weight `judge_weight`.
    """
    low, width = settings.low, settings.high - settings.low
    share, score = pl.col("passed"), pl.col("score")
    checks = low + width * share
    if settings.combine == "gate":
        passing = low + width / 2 + (score - low) / 2
        return pl.when(share == 1).then(passing).otherwise(low + width / 2 * share)
    if settings.combine == "sum":
        return (1 - settings.judge_weight) * checks + settings.judge_weight * score
    return checks


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
    votes = votes.sort(VOTES.key)
    if how == "expected":
        votes = votes.with_columns(_weight().alias("weight"))
    return (
        votes.group_by(SCORES.key, maintain_order=True)
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
    unknown = (valid & ~per_token.is_finite().fill_null(False)).any().over(SCORES.key)
    return pl.when(unknown).then(1.0).otherwise((per_token - per_token.max().over(SCORES.key)).exp())
