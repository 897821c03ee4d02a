"""Scores for the control arms: what the loop does when its scores are chance, or the truth.

Reads   an iteration's prompts and candidates; what checks found of them, for `shuffled`.
Does    gives each candidate one vote: a seeded draw from 0 to 5 (`random`), its true quality (`oracle`), or the score
        that the checks gave to one of the prompt's candidates, dealt out by chance (`shuffled`).
Writes  the tables that the `score` stage writes.
"""

from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from stages.algorithms.aggregation import aggregate, passed_shares
from stages.config import Section
from stages.contracts.artifacts import read, write
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.files import Shards
from stages.contracts.ids import Seeds
from stages.contracts.provenance import describe
from stages.contracts.schema import frame
from stages.evaluate import load_oracle
from stages.tables import CANDIDATES, PROMPTS, SCORES, VERIFICATIONS, VOTES

HIGH = 5
"""The best score; the worst is 0."""


class Args(Section):
    """Command-line flags."""

    arm: Literal["random", "shuffled", "oracle"] = Field(description="Where scores come from.")
    oracle: Path | None = Field(None, description="Python file with `quality`, for the arm `oracle`.")
    seed: int = Field(0, description="Run seed.")
    iteration: int = Field(1, description="Iteration.")
    prompts: Path = Field(description="The iteration's prompts (Parquet).")
    candidates: list[Path] = Field(description="Candidates (Parquet).")
    verifications: Shards = Field([], description="Carried out checks, for the arm `shuffled`: Parquet files.")
    votes: Path = Field(description="Output: votes (Parquet).")
    scores: Path = Field(description="Output: scores (Parquet).")


def true_scores(rows: pl.DataFrame, oracle: Path | None) -> list[float]:
    """The true quality of each response. StageError without an oracle."""
    if oracle is None:
        raise StageError("the arm `oracle` needs --oracle: set evaluate.oracle")
    quality = load_oracle(oracle).quality
    return [quality(messages, text) for messages, text in rows.select("messages", "text").iter_rows()]


def dealt_out(rows: pl.DataFrame, verifications: list[Path], seeds: Seeds) -> list[float]:
    """A score for each response: the checks' scores of its prompt's responses, each given to one of them by chance.

    As many responses pass as by the checks, and as many pairs can be made. StageError where one was not checked.
    """
    checks = pl.concat([frame(VERIFICATIONS, []), *(read(file, VERIFICATIONS) for file in verifications)])
    shares = rows.join(passed_shares(checks), on=CANDIDATES.key, how="left", maintain_order="left")
    if shares["passed"].has_nulls():
        raise StageError("the arm `shuffled` needs --verifications of all candidates: set verify.enabled")
    lots = pl.Series("lot", [seeds.of("control", key) for key in rows["candidate_id"]], dtype=pl.UInt64)
    dealt = shares.with_columns(lots).select(pl.col("passed").sort_by("lot").over("prompt_id"))
    return (dealt["passed"] * HIGH).to_list()


def main(args: Args) -> None:
    """Score every candidate once."""
    prompts = read(args.prompts, PROMPTS, ["prompt_id", "messages"])
    candidates = read(args.candidates, CANDIDATES, ["prompt_id", "candidate_id", "text"])
    rows = candidates.join(prompts, on="prompt_id", validate="m:1")
    seeds = Seeds(args.seed, args.iteration)
    if args.arm == "oracle":
        scores = true_scores(rows, args.oracle)
    elif args.arm == "shuffled":
        scores = dealt_out(rows, args.verifications, seeds)
    else:
        scores = [float(seeds.of("control", key) % (HIGH + 1)) for key in rows["candidate_id"]]
    votes = rows.select("prompt_id", "candidate_id").with_columns(
        vote=pl.lit(0, pl.Int64),
        judge=pl.lit(args.arm),
        score=pl.Series(scores, dtype=pl.Float64),
        span=pl.lit(None, pl.List(pl.Int64)),
        verdict=pl.lit(None, pl.String),
        parse_status=pl.lit("ok"),
        finish_reason=pl.lit("stop"),
        tokens=pl.lit(0, pl.Int64),
        logprob=pl.lit(None, pl.Float64),
    )
    origin = {"arm": args.arm} | describe("score", args, [args.prompts, *args.candidates, *args.verifications])
    write(votes, args.votes, VOTES, origin)
    write(aggregate(votes, "mean", 1), args.scores, SCORES, origin)


if __name__ == "__main__":
    run(Args, main)
