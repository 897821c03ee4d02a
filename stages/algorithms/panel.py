"""Several judges of the same candidates, side by side."""

import polars as pl

_CANDIDATE = ["iteration", "prompt_id", "candidate_id"]


def panel(votes: pl.DataFrame) -> pl.DataFrame:
    """One row per `iteration` and `judge`, from rows of table `votes` with a column `iteration`; none of an iteration
    with a single judge.

    `votes` (asked for), `parsed` (share), `score` (mean of its valid votes), `spread` (mean over candidates of the
    standard deviation of its valid votes), `agreement` (of the pairs of a prompt's candidates that both this judge's
    mean and the mean of the other judges' means tell apart, the share in which they prefer the same one; null without
    any) and `compared` (the number of such pairs).
    """
    judges = (
        votes.select("iteration", "judge").unique().filter(pl.len().over("iteration") > 1).sort("iteration", "judge")
    )
    score = pl.col("score")
    asked = votes.group_by("iteration", "judge").agg(
        pl.len().alias("votes"), (score.count() / pl.len()).alias("parsed"), score.mean()
    )
    means = (
        votes.drop_nulls("score").group_by(*_CANDIDATE, "judge").agg(score.mean(), score.std(ddof=0).alias("spread"))
    )
    spread = means.group_by("iteration", "judge").agg(pl.col("spread").mean())
    agreements = [_agreement(means, judge) for judge in judges["judge"].unique().sort()]
    on = ["iteration", "judge"]
    empty = pl.DataFrame(
        schema={"iteration": pl.Int64, "judge": pl.String, "agreement": pl.Float64, "compared": pl.Int64}
    )
    found = judges.join(asked, on=on, how="left").join(spread, on=on, how="left")
    found = found.join(pl.concat([empty, *agreements]), on=on, how="left")
    return found.with_columns(pl.col("compared").fill_null(0)).sort(on)


def _agreement(means: pl.DataFrame, judge: str) -> pl.DataFrame:
    """`iteration`, `judge`, `agreement`, `compared` of one judge, from the means of all by candidate."""
    mine, others = means.filter(judge=judge), means.filter(pl.col("judge") != judge)
    beside = mine.join(others.group_by(_CANDIDATE).agg(pl.col("score").mean().alias("other")), on=_CANDIDATE)
    pairs = beside.join(beside, on=["iteration", "prompt_id"], suffix="_b").filter(
        pl.col("candidate_id") < pl.col("candidate_id_b")
    )
    same = ((pl.col("score") - pl.col("score_b")) * (pl.col("other") - pl.col("other_b"))).alias("same")
    told = pairs.select("iteration", "judge", same).filter(pl.col("same") != 0)
    return told.group_by("iteration", "judge").agg(
        (pl.col("same") > 0).mean().alias("agreement"), pl.len().cast(pl.Int64).alias("compared")
    )
