"""Rate: parse the meta-judge's verdicts and rate the judgements of each compared candidate.

Reads:  verdicts (any number of files, also none), optionally votes
Does:   takes the last match of `pattern` in each verdict as its winner, weighs the battles against position bias and
        fits Elo ratings per candidate; reports position bias, order flips and how often the higher score won
Writes: battles (one row per verdict), ratings (one row per compared judgement)

Texts pass through in pieces of whole prompts; only keys and winners of all verdicts are held at once.
"""

import sys
from pathlib import Path

import polars as pl
from pydantic import Field

from stages.algorithms.ratings import flip_rate, higher_score_wins, rate, slot_weights
from stages.algorithms.votes_and_battles import OF_VERDICTS, parse_battles
from stages.config import RateSection
from stages.contracts.artifacts import stream, write
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.files import Shards
from stages.contracts.provenance import describe
from stages.contracts.schema import frame
from stages.tables import BATTLES, RATINGS, VERDICTS, VOTES


class Args(RateSection):
    """Command line of the stage."""

    verdicts: Shards = Field([], description="Verdicts: Parquet files.")
    votes: Path | None = Field(None, description="Parsed votes (Parquet), to report how often the higher score won.")
    battles: Path = Field(description="Output: parsed verdicts (Parquet).")
    ratings: Path = Field(description="Output: ratings of judgements (Parquet).")


def _votes_of(battles: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Keys and scores of the compared judgements' votes; StageError if one is missing in the file."""
    sides = (battles.select("prompt_id", "candidate_id", vote=side) for side in ("vote_a", "vote_b"))
    compared = pl.concat(sides).unique()
    none = frame(VOTES, []).select(*VOTES.key, "score")
    pieces = stream([path], VOTES, none.columns)
    votes = pl.concat([none, *(piece.join(compared, on=VOTES.key, how="semi") for piece in pieces)])
    missing = compared.join(votes, on=VOTES.key, how="anti").sort(VOTES.key)
    if missing.height:
        _, candidate, vote = missing.row(0)
        raise StageError(f"{path}: vote {vote} of candidate {candidate} is missing; give the votes that were compared")
    return votes


def _summary(battles: pl.DataFrame, ratings: pl.DataFrame) -> str:
    read, flips = battles["winner"].count(), flip_rate(battles)
    text = f"rate: {read} of {battles.height} verdicts parsed, {ratings['candidate_id'].n_unique()} candidates rated"
    if read:
        text += f", position bias: first slot wins {slot_weights(battles)[1]:.1%}"
    return text if flips is None else f"{text}, order flips {flips:.1%} of the pairs"


def main(args: Args) -> None:
    """Parse piece by piece, rate, write both tables."""
    pieces = stream(args.verdicts, VERDICTS, OF_VERDICTS)
    battles = pl.concat([frame(BATTLES, []), *(parse_battles(piece, args.pattern) for piece in pieces)])
    ratings = rate(battles, args.position_weights, args.prior)
    summary = _summary(battles, ratings)
    if args.votes is not None and (share := higher_score_wins(battles, _votes_of(battles, args.votes))) is not None:
        summary += f", the higher score wins {share:.1%}"
    origin = describe("rate", args, [*args.verdicts, *([args.votes] if args.votes else [])])
    write(battles, args.battles, BATTLES, origin)
    write(ratings, args.ratings, RATINGS, origin)
    print(summary, file=sys.stderr)


if __name__ == "__main__":
    run(Args, main)
