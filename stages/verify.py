"""Verify: checks of the instructions that a prompt carries, instead of a judge's opinion.

Reads:  candidates (one shard), and the prompts that they answer.
Does:   checks every candidate of a prompt with `checks` against each of its instructions. What is checked is the
        response alone, without thoughts before its answer. An empty or failed response follows none, and a check that
        raises counts as failed.
Writes: one row per candidate and instruction (VERIFICATIONS).
"""

import sys
from pathlib import Path

import polars as pl
from pydantic import Field

from stages.algorithms.verification import outcomes
from stages.config import Section
from stages.contracts.artifacts import read, read_joined, write
from stages.contracts.cli import run
from stages.contracts.provenance import describe
from stages.contracts.schema import frame
from stages.tables import CANDIDATES, PROMPTS, VERIFICATIONS


class Args(Section):
    """Command line of the stage."""

    prompts: Path = Field(description="Prompts of the iteration (Parquet).")
    candidates: Path = Field(description="Candidates to check (Parquet).")
    output: Path = Field(description="Output: which candidate follows which instruction (Parquet).")


def verify(candidates: pl.DataFrame) -> pl.DataFrame:
    """Rows of VERIFICATIONS for candidates with `text`, `finish_reason` and their prompt's `messages` and `checks`.

    Candidates of prompts without checks yield none.
    """
    rows = [
        {"prompt_id": candidate["prompt_id"], "candidate_id": candidate["candidate_id"], "check": one.check,
         "instruction": one.instruction, "passed": one.passed, "detail": one.detail}
        for candidate in candidates.filter(pl.col("checks").is_not_null()).iter_rows(named=True)
        for one in outcomes(candidate)
    ]  # fmt: skip
    return frame(VERIFICATIONS, rows)


def main(args: Args) -> None:
    """Join, check, write."""
    candidates = read(args.candidates, CANDIDATES, [*CANDIDATES.key, "text", "finish_reason"])
    found = verify(read_joined(candidates, args.prompts, PROMPTS, ["messages", "checks"]))
    write(found, args.output, VERIFICATIONS, describe("verify", args, [args.prompts, args.candidates]))
    print(
        f"verify: {found['candidate_id'].n_unique()} of {candidates.height} candidates checked, "
        f"{found['passed'].sum()} of {found.height} checks passed, {found['detail'].count()} not carried out",
        file=sys.stderr,
    )


if __name__ == "__main__":
    run(Args, main)
