"""Score: parse the judgements and aggregate them to one score per candidate. Cheap: a new pattern regenerates nothing.

Reads:  judgements (any number of files)
Does:   takes the last match of `pattern` in each judgement as its vote, then mean or median, variance and count per
        candidate; fails when too few votes parse or all scores are equal
Writes: votes (one row per judgement), scores (one row per candidate)
"""

import sys
from pathlib import Path

import polars as pl
from pydantic import Field

from stages.algorithms.aggregation import aggregate
from stages.algorithms.parsing import parse_score
from stages.artifacts import read, write
from stages.cli import run
from stages.config import ScoreSection
from stages.errors import StageError
from stages.provenance import describe
from stages.tables import JUDGEMENTS, SCORES, VOTES


class Args(ScoreSection):
    """Flags of this stage."""

    judgements: list[Path] = Field(min_length=1, description="Judgements: Parquet files.")
    votes: Path = Field(description="Output: parsed votes (Parquet).")
    scores: Path = Field(description="Output: scores (Parquet).")


def parse(judgements: pl.DataFrame, settings: ScoreSection) -> pl.DataFrame:
    """Rows of table `votes` from rows of table `judgements` (their keys, text and finish reason)."""
    parsed = [
        parse_score(text, finish_reason, settings.pattern, settings.low, settings.high)
        for text, finish_reason in judgements.select("text", "finish_reason").iter_rows()
    ]
    return judgements.select("prompt_id", "candidate_id", "vote").with_columns(
        pl.Series("score", [vote.value for vote in parsed], dtype=pl.Float64),
        pl.Series("span", [None if vote.span is None else list(vote.span) for vote in parsed], dtype=pl.List(pl.Int64)),
        pl.Series("parse_status", [vote.status for vote in parsed], dtype=pl.String),
    )


def check(votes: pl.DataFrame, scores: pl.DataFrame, settings: ScoreSection) -> None:
    """The gates: StageError if there are no votes, too few of them parsed, or the scores tell nothing apart."""
    if votes.is_empty():
        raise StageError("the judgement files have no rows: nothing to score; look at the judge stage's log")
    parsed = votes["score"].count()
    if parsed < settings.min_parse_rate * votes.height:
        raise StageError(
            f"only {parsed} of {votes.height} judgements parsed ({parsed / votes.height:.1%}, min_parse_rate is "
            f"{settings.min_parse_rate:.1%}): {_counts(votes)}. Read some judgements; then adapt score.pattern "
            "(no_match), score.low and score.high (out_of_range), judge.sampling.max_tokens (length) or the template"
        )
    known = scores["score"].drop_nulls()
    if known.is_empty():
        raise StageError(
            f"no candidate has the {settings.min_votes} valid votes that score.min_votes asks for ({_counts(votes)}); "
            "ask for more judge.votes or fewer score.min_votes"
        )
    if len(known) > 1 and known.n_unique() == 1:
        raise StageError(
            f"all {len(known)} scored candidates have the score {known[0]:g}: the judge tells nothing apart, no pairs "
            "can come of it; check the judge's template and the model, or that score.pattern reads the verdict"
        )


def main(args: Args) -> None:
    """Parse, aggregate, check, write both tables."""
    columns = ["prompt_id", "candidate_id", "vote", "text", "finish_reason"]
    votes = parse(read(args.judgements, JUDGEMENTS, columns), args)
    scores = aggregate(votes, args.aggregate, args.min_votes)
    check(votes, scores, args)
    origin = describe("score", args, args.judgements)
    write(votes, args.votes, VOTES, origin)
    write(scores, args.scores, SCORES, origin)
    print(
        f"score: {votes.height} judgements ({_counts(votes)}), {scores['score'].count()} of {scores.height} candidates "
        f"scored, mean {_mean(scores, 'score'):.3f}, mean variance {_mean(scores, 'variance'):.3f}",
        file=sys.stderr,
    )


def _mean(data: pl.DataFrame, column: str) -> float:
    return float(data.select(pl.col(column).mean()).item())


def _counts(votes: pl.DataFrame) -> str:
    counts = votes["parse_status"].value_counts().sort("count", "parse_status", descending=[True, False])
    return ", ".join(f"{status} {count}" for status, count in counts.iter_rows())


if __name__ == "__main__":
    run(Args, main)
