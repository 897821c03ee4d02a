"""Rate: parse the meta-judge's verdicts and rate the judgements of each compared candidate.

Reads:  verdicts (any number of files, also none)
Does:   takes the last match of `pattern` in each verdict as its winner, weighs the battles against position bias and
        fits Elo ratings per candidate
Writes: battles (one row per verdict), ratings (one row per compared judgement)
"""

import sys
from pathlib import Path

import polars as pl
from pydantic import Field

from stages.algorithms.parsing import parse_winner
from stages.algorithms.ratings import flip_rate, rate, slot_weights
from stages.artifacts import read, write
from stages.cli import run
from stages.config import RateSection
from stages.provenance import describe
from stages.tables import BATTLES, RATINGS, VERDICTS

KEYS = ["prompt_id", "candidate_id", "vote_a", "vote_b"]


class Args(RateSection):
    """Flags of this stage."""

    verdicts: list[Path] = Field([], description="Verdicts: Parquet files.")
    battles: Path = Field(description="Output: parsed verdicts (Parquet).")
    ratings: Path = Field(description="Output: ratings of judgements (Parquet).")


def parse(verdicts: pl.DataFrame, pattern: str) -> pl.DataFrame:
    """Rows of table `battles` from rows of table `verdicts` (their keys, text and finish reason)."""
    parsed = [
        parse_winner(text, finish_reason, pattern)
        for text, finish_reason in verdicts.select("text", "finish_reason").iter_rows()
    ]
    return verdicts.select(KEYS).with_columns(
        pl.Series("winner", [verdict.value for verdict in parsed], dtype=pl.String),
        pl.Series("parse_status", [verdict.status for verdict in parsed], dtype=pl.String),
    )


def main(args: Args) -> None:
    """Parse, rate, write both tables."""
    battles = parse(read(args.verdicts, VERDICTS, [*KEYS, "text", "finish_reason"]), args.pattern)
    ratings = rate(battles, args.position_weights, args.prior)
    origin = describe("rate", args, args.verdicts)
    write(battles, args.battles, BATTLES, origin)
    write(ratings, args.ratings, RATINGS, origin)
    print(_summary(battles, ratings), file=sys.stderr)


def _summary(battles: pl.DataFrame, ratings: pl.DataFrame) -> str:
    parsed, flips = battles["winner"].count(), flip_rate(battles)
    text = f"rate: {parsed} of {battles.height} verdicts parsed, {ratings['candidate_id'].n_unique()} candidates rated"
    if parsed:
        text += f", position bias: first slot wins {slot_weights(battles)[1]:.1%}"
    return text if flips is None else f"{text}, order flips {flips:.1%} of the pairs"


if __name__ == "__main__":
    run(Args, main)
