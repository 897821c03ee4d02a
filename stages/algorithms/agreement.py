"""Which judgements of ranked answers to learn from (EFT, Self-Rewarding section 3.1): those that order the answers as
people did, and no score much more often than the others.

Every function takes and returns the same judgements, one row each, with a `reason` (null: kept) and its `detail`; a
reason, once given, stays.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Literal

import polars as pl

from stages.tables import SCORES, VOTES

KEPT = pl.col("reason").is_null()
CLASS = pl.col("score").floor().cast(pl.Int64)
TURN = pl.when(KEPT).then("draw").rank("ordinal").over(CLASS)
"""Place of a kept judgement within its class, from 1; null for others."""
Rule = Literal["order", "pairs"]


def agreement(
    answers: pl.DataFrame, votes: pl.DataFrame, rule: Rule, tie_tolerance: float, allow_ties: bool
) -> pl.DataFrame:
    """Judgements with the reason of those that do not order the answers as their ranks do.

    `answers` has prompt_id, candidate_id and rank (0 is the best), `votes` has prompt_id, candidate_id, vote, score and
    parse_status, of these answers alone. The better of two unequally ranked answers must score more than the other plus
    `tie_tolerance`, or, with `allow_ties`, no less than the other minus it; equal ranks ask for nothing. What a
    judgement is held against:

    - `order`: the judgements with the same vote number of the prompt's other answers. They stand and fall together: one
      that is missing or did not parse makes the others `incomplete`; otherwise one wrong pair rejects all.
    - `pairs`: the mean valid score of each other answer of unequal rank (`incomplete` if one has none), alone.

    Reasons: `unparsed`, `incomplete`, `disagrees`, `tie` (neither right nor reversed), the first that applies.
    Returns prompt_id, candidate_id, vote, score (null unless it parsed), reason, detail.
    """
    scored = votes.select(
        *VOTES.key, "parse_status", pl.when(pl.col("parse_status") == "ok").then("score").alias("score")
    )
    faults = _faults(_comparisons(answers, scored, rule), tie_tolerance, allow_ties)
    group = ["prompt_id", "vote"] if rule == "order" else VOTES.key
    worst = faults.sort("severity", "gap", *VOTES.key, "other").unique(group, keep="first", maintain_order=True)
    found = scored.join(worst.select(*group, "reason", "detail"), on=group, how="left", maintain_order="left")
    unparsed = pl.col("score").is_null()
    return found.with_columns(
        pl.when(unparsed).then(pl.lit("unparsed")).otherwise("reason").alias("reason"),
        pl.when(unparsed).then(pl.format("vote is {}", "parse_status")).otherwise("detail").alias("detail"),
    ).drop("parse_status")


def drop_duplicates(judgements: pl.DataFrame) -> pl.DataFrame:
    """Gives all but the first (by key) of the kept judgements with the same `example` the reason `duplicate`."""
    first = pl.when(KEPT).then("example").is_first_distinct()
    return _mark(judgements.sort(VOTES.key), ~first, "duplicate", pl.lit("same input and same text as another one"))


def balance(judgements: pl.DataFrame, max_class_share: float) -> pl.DataFrame:
    """Thins the classes (whole parts of the score) of the kept judgements until none exceeds `max_class_share` of what
    stays; what goes, in the order of the column `draw`, has the reason `class_share`.

    Exact and as little as possible: every class is cut to one common size, the largest that fulfils the share. Fewer
    than 1/max_class_share classes cannot fulfil it; they are then cut to the size of the smallest, an even split.
    """
    sizes = judgements.filter(KEPT).group_by(CLASS).len()["len"].to_list()
    size = _class_size(sizes, max_class_share)
    detail = pl.format(f"score class {{}}: {size} of {{}} stay", CLASS, KEPT.sum().over(CLASS))
    return _mark(judgements, TURN.gt(size), "class_share", detail)


def limit(judgements: pl.DataFrame, max_judgements: int | None) -> pl.DataFrame:
    """Keeps `max_judgements` at most, spread over the classes as evenly as they last (they take turns, each giving its
    judgements in the order of `draw`); the others have the reason `budget`."""
    if max_judgements is None:
        return judgements
    place = pl.struct(TURN.alias("turn"), "draw", *VOTES.key).rank("ordinal").over(KEPT)
    return _mark(judgements, place > max_judgements, "budget", pl.lit(f"max_judgements {max_judgements}"))


def _comparisons(answers: pl.DataFrame, scored: pl.DataFrame, rule: Rule) -> pl.DataFrame:
    """One row per judgement (its key, rank, score) and other answer that it is held against (other, other_rank,
    other_score); scores are null where there is no valid one."""
    ranked = answers.select("prompt_id", "candidate_id", "rank")
    if rule == "order":
        asked = ranked.join(scored.select("prompt_id", "vote").unique(), on="prompt_id")
        mine = asked.join(scored, on=VOTES.key, how="left")
        # An answer of equal rank asks for no order, but a vote is not whole without its judgement.
        others, on, against = mine, ["prompt_id", "vote"], pl.col("candidate_id") != pl.col("other")
    else:
        mine = scored.drop_nulls("score").join(ranked, on=SCORES.key)
        means = scored.group_by("prompt_id", "candidate_id").agg(pl.col("score").mean())
        others, on = ranked.join(means, on=SCORES.key, how="left"), ["prompt_id"]
        against = pl.col("rank") != pl.col("other_rank")
    others = others.select(*on, other="candidate_id", other_rank="rank", other_score="score")
    return mine.join(others, on=on).filter(against)


def _faults(comparisons: pl.DataFrame, tie_tolerance: float, allow_ties: bool) -> pl.DataFrame:
    """The comparisons with something wrong: their reason, its detail, its severity (0 is the worst), and the gap by
    which the better answer's score leads."""
    lead = (pl.col("score") - pl.col("other_score")) * (pl.col("other_rank") - pl.col("rank")).sign()
    unequal = pl.col("rank") != pl.col("other_rank")
    severity = (
        pl.when(lead.is_null())
        .then(0)
        .when(unequal & (lead < -tie_tolerance))
        .then(1)
        .when(unequal & (lead <= tie_tolerance) & (not allow_ties))
        .then(2)
    )
    sides = [("candidate_id", "rank", "score"), ("other", "other_rank", "other_score")]
    names = [name for side in sides for name in side]
    shown = [pl.col(name).cast(pl.String).fill_null("none") for name in names]
    found = comparisons.with_columns(
        severity.alias("severity"),
        lead.alias("gap"),
        pl.format("{}: rank {}, score {}; {}: rank {}, score {}", *shown).alias("detail"),
    )
    reasons = {0: "incomplete", 1: "disagrees", 2: "tie"}
    return found.drop_nulls("severity").with_columns(
        pl.col("severity").replace_strict(reasons, return_dtype=pl.String).alias("reason")
    )


def _class_size(sizes: Sequence[int], max_class_share: float) -> int:
    """The largest size to which all classes can be cut so that none exceeds its share of what stays."""
    if not sizes:
        return 0
    share = max(Fraction(str(max_class_share)), Fraction(1, len(sizes)))
    possible = range(max(sizes), 0, -1)
    return next(size for size in possible if size <= share * sum(min(n, size) for n in sizes))


def _mark(judgements: pl.DataFrame, over: pl.Expr, reason: str, detail: pl.Expr) -> pl.DataFrame:
    """Gives the reason to the kept judgements for which `over` holds."""
    marked = KEPT & over
    return judgements.with_columns(
        pl.when(marked).then(pl.lit(reason)).otherwise("reason").alias("reason"),
        pl.when(marked).then(detail).otherwise("detail").alias("detail"),
    )
