"""The mix: how many pairs of each kind are trained on, which ones, and the reasons of those that are not."""

import math

import polars as pl


def shares(actor: int, judge: int, judge_share: float, max_pairs: int | None) -> tuple[int, int]:
    """How many of the available actor and judge pairs to use, for `judge / (actor + judge)` nearest to `judge_share`.

    Actor pairs are dropped only for `max_pairs` (or a share of 1); with too few judge pairs all of them are used and
    the share falls short.
    """
    actor_used = actor if judge_share < 1 else 0
    judge_used = min(judge, _judge_pairs(actor, judge_share)) if judge_share < 1 else judge
    if max_pairs is None or actor_used + judge_used <= max_pairs:
        return actor_used, judge_used
    judge_used = min(judge, math.floor(judge_share * max_pairs + 0.5))
    return min(actor_used, max_pairs - judge_used), judge_used


def balanced(pairs: pl.DataFrame, count: int) -> pl.DataFrame:
    """`count` rows of `pairs` (columns `class`, `draw`, `prompt_id`), spread over the classes as evenly as they last.

    The classes take turns, each giving its rows in the order of the draw.
    """
    turn = pl.col("draw").rank("ordinal").over("class")
    ordered = pairs.sort("draw", "prompt_id").with_columns(turn.alias("turn"))
    return ordered.sort("turn", "draw", "prompt_id").head(count).drop("turn")


def mix(
    actor: pl.DataFrame, judge: pl.DataFrame, judge_share: float, max_pairs: int | None
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Outcomes of both kinds, with reason `budget` given to the pairs that the mix leaves out.

    An outcome is a row per prompt with columns prompt_id, reason (null: a pair), detail, class and draw.
    """
    available = [outcomes.filter(pl.col("reason").is_null()) for outcomes in (actor, judge)]
    used = shares(available[0].height, available[1].height, judge_share, max_pairs)
    budget = f"judge_share {judge_share:g}, " + (f"max_pairs {max_pairs}" if max_pairs else "no max_pairs")
    left_out = []
    for outcomes, pairs, count in zip((actor, judge), available, used, strict=True):
        kept = balanced(pairs, count)["prompt_id"].implode()
        over = pl.col("reason").is_null() & ~pl.col("prompt_id").is_in(kept)
        detail = f"{count} of {pairs.height} pairs used ({budget})"
        left_out.append(
            outcomes.with_columns(
                pl.when(over).then(pl.lit("budget")).otherwise("reason").alias("reason"),
                pl.when(over).then(pl.lit(detail)).otherwise("detail").alias("detail"),
            )
        )
    return left_out[0], left_out[1]


def ledger(outcomes: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Rows of table `pair_ledger`: the outcomes of one kind (`actor`, `judge`) that are no pairs."""
    candidate = pl.col("candidate_id") if kind == "judge" else pl.lit(None, pl.String).alias("candidate_id")
    dropped = outcomes.filter(pl.col("reason").is_not_null())
    return dropped.select(pl.lit(kind).alias("kind"), "prompt_id", candidate, "reason", "detail")


def _judge_pairs(actor: int, judge_share: float) -> int:
    if actor == 0:
        return 0
    below = math.floor(judge_share / (1 - judge_share) * actor)
    return min((below, below + 1), key=lambda judge: abs(judge / (judge + actor) - judge_share))
