"""Candidates of a prompt that say the same: sampled twice, they are one answer."""

import polars as pl

from stages.algorithms.aggregation import DECIMALS
from stages.tables import CANDIDATES

SAME_TEXT = pl.col("text").str.normalize("NFC").str.strip_chars()
"""What twins have in common: their text, surrounding white space and the spelling of combined characters aside."""
FIRST_TWIN = pl.col("candidate_id").min().over("prompt_id", SAME_TEXT)


def mark_twins(candidates: pl.DataFrame) -> pl.DataFrame:
    """Rows of table `candidates` with `twin_of`: the first candidate of the prompt with the same text, if it is another
    one and neither failed."""
    sound = candidates.filter(pl.col("finish_reason") != "error")
    first = sound.select(*CANDIDATES.key, twin_of=FIRST_TWIN).filter(pl.col("twin_of") != pl.col("candidate_id"))
    return candidates.join(first, on=CANDIDATES.key, how="left", maintain_order="left")


def join_twins(candidates: pl.DataFrame) -> pl.DataFrame:
    """One row per distinct text of a prompt: the first twin, with the mean score and variance of all and the sum of
    their valid votes.

    `candidates` has prompt_id, candidate_id, text, score, variance, valid_votes and any other columns.
    """
    of_twins = pl.col("prompt_id"), SAME_TEXT
    together = candidates.with_columns(
        pl.col("score", "variance").mean().over(of_twins).round(DECIMALS), pl.col("valid_votes").sum().over(of_twins)
    )
    return together.filter(pl.col("candidate_id") == FIRST_TWIN)
