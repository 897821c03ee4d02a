"""Which two members form a pair: candidates by score and length, judgements by rating."""

import polars as pl

SCORE_TOLERANCE = 1e-9
"""Scores closer than this are equal (they are rounded to 1e-9)."""
RATING_TOLERANCE = 1e-6
"""Elo ratings closer than this are equal: an exact tie leaves the solver with a difference of rounding size."""


def actor_members(candidates: pl.DataFrame, rho: float) -> pl.DataFrame:
    """`prompt_id`, `chosen_candidate_id`, `rejected_candidate_id`, one row per prompt.

    `candidates` has prompt_id, candidate_id, score, variance, valid_votes, tokens (length) and draw; no nulls.
    Chosen is the shortest candidate with a score in [(1-rho) max + rho min, max], rejected the longest one with a
    score in [min, (1-rho) min + rho max] (Meta-Rewarding, section 2.1, length control). Among equals the one with
    more valid votes, then with the lower variance, then the draw decides: a lone vote, which has no variance, never
    passes for a sure one. With rho 0 the windows are the extremes, and length decides nothing.
    """
    top, bottom = (getattr(pl.col("score"), end)().over("prompt_id") for end in ("max", "min"))
    high = pl.col("score") >= (1 - rho) * top + rho * bottom - SCORE_TOLERANCE
    low = pl.col("score") <= (1 - rho) * bottom + rho * top + SCORE_TOLERANCE
    length = pl.col("tokens") * int(rho > 0)
    chosen = _first(candidates.filter(high), length).rename({"candidate_id": "chosen_candidate_id"})
    rejected = _first(candidates.filter(low), -length).rename({"candidate_id": "rejected_candidate_id"})
    return chosen.join(rejected, on="prompt_id")


def judge_members(ratings: pl.DataFrame) -> pl.DataFrame:
    """`prompt_id`, `candidate_id`, `chosen_vote`, `rejected_vote`, `gap`, `battles`, one row per candidate.

    `ratings` are rows of table `ratings` with a column draw. Chosen is the judgement with the highest rating,
    rejected that with the lowest (Meta-Rewarding, section 2.2); equals at one end are drawn. `gap` is the rating
    difference in Elo points: at or below RATING_TOLERANCE there is no winner.
    """
    keys = ["prompt_id", "candidate_id"]
    rating = pl.col("rating")
    best = ratings.filter(rating >= rating.max().over(keys) - RATING_TOLERANCE)
    worst = ratings.filter(rating <= rating.min().over(keys) + RATING_TOLERANCE)
    spread = ratings.group_by(keys).agg(gap=rating.max() - rating.min(), battles=pl.col("battles").sum())
    ends = [
        end.sort("draw", "vote")
        .unique(keys, keep="first", maintain_order=True)
        .select(*keys, pl.col("vote").alias(name))
        for name, end in (("chosen_vote", best), ("rejected_vote", worst))
    ]
    return ends[0].join(ends[1], on=keys).join(spread, on=keys).sort(keys)


def _first(window: pl.DataFrame, length: pl.Expr) -> pl.DataFrame:
    """The first candidate of each prompt: least `length`, most valid votes, lowest variance, lowest draw."""
    order = [pl.col("prompt_id"), length, -pl.col("valid_votes"), pl.col("variance"), pl.col("draw")]
    ranked = window.sort([*order, pl.col("candidate_id")])
    return ranked.unique("prompt_id", keep="first", maintain_order=True).select("prompt_id", "candidate_id")
