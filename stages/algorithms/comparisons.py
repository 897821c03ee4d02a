"""What the meta-judge compares: the candidate that the judge is least sure of, and pairs of its judgements."""

import polars as pl

from stages.algorithms.draws import draws
from stages.contracts.ids import Seeds
from stages.tables import SCORES, VERDICTS, VOTES


def candidate_to_compare(scores: pl.DataFrame, seeds: Seeds) -> pl.DataFrame:
    """`prompt_id`, `candidate_id` of the candidate of each prompt whose votes vary most, from table `scores`.

    Prompts without a candidate that has two valid votes and a variance above zero have no row: neither checks nor
    unanimous votes leave anything to compare. Nor has one of which the judge saw only a part (status `shortened`).
    Ties are drawn (Meta-Rewarding, section 2.2: highest variance, ties at random).
    """
    seen = pl.col("status") != "shortened"
    eligible = scores.filter(pl.col("variance") > 0, pl.col("valid_votes") >= 2, seen)
    best = eligible.filter(pl.col("variance") == pl.col("variance").max().over("prompt_id"))
    return (
        best.with_columns(draws(best, ["candidate_id"], seeds, "meta_judge.candidate"))
        .sort("prompt_id", "draw", "candidate_id")
        .unique("prompt_id", keep="first", maintain_order=True)
        .select(SCORES.key)
    )


def comparisons(votes: pl.DataFrame, max_comparisons: int | None, seeds: Seeds) -> pl.DataFrame:
    """`prompt_id`, `candidate_id`, `vote_a`, `vote_b`: every pair of valid votes of each candidate, in both orders.

    `votes` are the rows of table `votes` of the candidates to compare. With `max_comparisons`, so many unordered
    pairs of each candidate are drawn; their both orders stay together, as position weights need them.
    """
    valid = votes.filter(pl.col("parse_status") == "ok").select(VOTES.key)
    pairs = (
        valid.join(valid, on=SCORES.key, suffix="_b")
        .filter(pl.col("vote") < pl.col("vote_b"))
        .rename({"vote": "vote_a"})
        .select(VERDICTS.key)
    )
    if max_comparisons is not None:
        drawn = pairs.with_columns(draws(pairs, pairs.columns[1:], seeds, "meta_judge.comparison"))
        turn = pl.col("draw").rank("ordinal").over(SCORES.key)
        pairs = drawn.sort("draw", "vote_a", "vote_b").filter(turn <= max_comparisons).drop("draw")
    swapped = pairs.select(*SCORES.key, pl.col("vote_b").alias("vote_a"), pl.col("vote_a").alias("vote_b"))
    return pl.concat([pairs, swapped]).sort(VERDICTS.key)
