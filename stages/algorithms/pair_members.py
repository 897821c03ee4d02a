"""Which two members form a pair: candidates by score and length, judgements by rating."""

import polars as pl

from stages.tables import SCORES

ALL = pl.lit(True)
SCORE_TOLERANCE = 1e-9
"""Scores closer than this are equal (they are rounded to 1e-9)."""
RATING_TOLERANCE = 1e-6
"""Elo ratings closer than this are equal: an exact tie leaves the solver with a difference of rounding size."""


def actor_members(candidates: pl.DataFrame, rho: float, winners: pl.Expr = ALL) -> pl.DataFrame:
    """`prompt_id`, `pair` (0), `chosen_candidate_id`, `rejected_candidate_id`, one row per prompt.

    `candidates` has prompt_id, candidate_id, score, variance, valid_votes, tokens (length) and draw; only variance may
    be null. Chosen is the shortest candidate with a score in [(1-rho) max + rho min, max], rejected the longest one
    with a score in [min, (1-rho) min + rho max] (Meta-Rewarding, section 2.1, length control). Among equals the one
    with more valid votes, then with the lower variance (none comes last), then the draw decides: a lone vote, which
    has no variance, never passes for a sure one. With rho 0 the windows are the extremes, and length decides nothing.
    Only `winners` can be chosen; the highest score is one of theirs.
    """
    top = pl.when(winners).then("score").max().over("prompt_id")
    bottom = pl.col("score").min().over("prompt_id")
    high = winners & (pl.col("score") >= (1 - rho) * top + rho * bottom - SCORE_TOLERANCE)
    low = pl.col("score") <= (1 - rho) * bottom + rho * top + SCORE_TOLERANCE
    length = pl.col("tokens") * int(rho > 0)
    chosen = _first(candidates.filter(high), length).rename({"candidate_id": "chosen_candidate_id"})
    rejected = _first(candidates.filter(low), -length).rename({"candidate_id": "rejected_candidate_id"})
    pair = pl.lit(0, pl.Int64).alias("pair")
    return chosen.join(rejected, on="prompt_id").select("prompt_id", pair, r"^.*_candidate_id$")


def all_members(candidates: pl.DataFrame, min_margin: float, winners: pl.Expr = ALL) -> pl.DataFrame:
    """`prompt_id`, `pair`, `chosen_candidate_id`, `rejected_candidate_id`: every pair that differs by more than
    `min_margin` in score, and in any case the pair that differs most.

    `candidates` as for `actor_members`. `pair` numbers the pairs of a prompt from 0: widest margin first, then the one
    with more valid votes, then with the lower variance (both summed over its members), then the draw. Only `winners`
    can be chosen.
    """
    names = ["candidate_id", "score", "variance", "valid_votes", "draw"]
    rejected = candidates.select("prompt_id", pl.col(names).name.prefix("rejected_"))
    chosen = candidates.filter(winners).select("prompt_id", pl.col(names).name.prefix("chosen_"))
    pairs = chosen.join(rejected, on="prompt_id")
    margin = (pl.col("chosen_score") - pl.col("rejected_score")).round(9)
    named = pl.col("chosen_candidate_id") < pl.col("rejected_candidate_id")
    pairs = pairs.filter((margin > SCORE_TOLERANCE) | ((margin.abs() <= SCORE_TOLERANCE) & named))
    votes, variance = (pl.col(f"chosen_{name}") + pl.col(f"rejected_{name}") for name in ("valid_votes", "variance"))
    # The exclusive or of two draws is one again: the pairs of one candidate do not stick together.
    draw = pl.col("chosen_draw") ^ pl.col("rejected_draw")
    members = ["chosen_candidate_id", "rejected_candidate_id"]
    pairs = pairs.sort("prompt_id", -margin, -votes, variance, draw, *members, nulls_last=True)
    number = pl.int_range(pl.len()).over("prompt_id").alias("pair")
    wide = (margin > min_margin + SCORE_TOLERANCE) | (pl.col("pair") == 0)
    return pairs.with_columns(number).filter(wide).select("prompt_id", "pair", *members)


def at_an_end() -> pl.Expr:
    """Whether a judgement has the highest or the lowest rating of its candidate, up to RATING_TOLERANCE."""
    rating = pl.col("rating")
    best = rating >= rating.max().over(SCORES.key) - RATING_TOLERANCE
    return best | (rating <= rating.min().over(SCORES.key) + RATING_TOLERANCE)


def judge_members(ratings: pl.DataFrame) -> pl.DataFrame:
    """`prompt_id`, `candidate_id`, `chosen_vote`, `rejected_vote`, `gap`, `battles`, `alike`, one row per candidate.

    `ratings` are rows of table `ratings` with a column draw; those that are not `at_an_end` may be left out. Chosen is
    the judgement with the highest rating, rejected that with the lowest (Meta-Rewarding, section 2.2), whatever lies
    between; equals at one end are drawn. `gap` is the rating difference in Elo points: at or below RATING_TOLERANCE
    there is no winner. `battles` and `alike` are those of the judgements given.
    """
    rating = pl.col("rating")
    best = ratings.filter(rating >= rating.max().over(SCORES.key) - RATING_TOLERANCE)
    worst = ratings.filter(rating <= rating.min().over(SCORES.key) + RATING_TOLERANCE)
    sums = pl.col("battles", "alike").sum()
    spread = ratings.group_by(SCORES.key).agg(sums, gap=rating.max() - rating.min())
    ends = [
        end.sort("draw", "vote")
        .unique(SCORES.key, keep="first", maintain_order=True)
        .select(*SCORES.key, pl.col("vote").alias(name))
        for name, end in (("chosen_vote", best), ("rejected_vote", worst))
    ]
    return ends[0].join(ends[1], on=SCORES.key).join(spread, on=SCORES.key).sort(SCORES.key)


def _first(window: pl.DataFrame, length: pl.Expr) -> pl.DataFrame:
    """The first candidate of each prompt: least `length`, most valid votes, lowest variance, lowest draw."""
    order = [pl.col("prompt_id"), length, -pl.col("valid_votes"), pl.col("variance"), pl.col("draw")]
    ordered = window.sort([*order, pl.col("candidate_id")], nulls_last=True)
    return ordered.unique("prompt_id", keep="first", maintain_order=True).select(SCORES.key)
