"""Pairs: the preference pairs that an iteration trains on, and a reason for every prompt that gives none.

Reads:  the iteration's prompts, candidates with their model inputs, scores; where judgements were compared also
        judgements with their model inputs, votes and ratings.
Does:   actor pairs by score and length (length control), judge pairs by rating, and the mix of both with an exact
        share of judge pairs.
Writes: pairs, and the ledger: per kind, prompts in = pairs + ledger rows.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from pydantic import Field

from stages.algorithms.mixing import ledger, mix
from stages.algorithms.outcomes import actor_outcomes, judge_outcomes
from stages.artifacts import Table, frame, read, write
from stages.cli import run
from stages.config import PairsSection, at, resolve
from stages.errors import StageError
from stages.provenance import describe
from stages.tables import (
    CANDIDATE_PROMPTS,
    CANDIDATES,
    JUDGE_PROMPTS,
    JUDGEMENTS,
    PAIR_LEDGER,
    PAIRS,
    PROMPTS,
    RATINGS,
    SCORES,
    VOTES,
)

CANDIDATE = ["prompt_id", "candidate_id"]
SAMPLED = ["text", "token_ids", "finish_reason"]
INPUT = ["messages", "token_ids"]


class Args(PairsSection):
    """Command line of the stage."""

    seed: int = Field(0, ge=0, description="Run seed.")
    iteration: int = Field(ge=1, description="Iteration that the pairs train, from 1.")
    prompts: Path = Field(description="The iteration's prompts (Parquet).")
    candidates: list[Path] = Field(min_length=1, description="Candidates (Parquet).")
    candidate_prompts: list[Path] = Field(min_length=1, description="Model inputs of the candidates (Parquet).")
    scores: Path = Field(description="Scores of the candidates (Parquet).")
    judgements: list[Path] = Field([], description="Judgements (Parquet); only where they were compared.")
    judge_prompts: list[Path] = Field([], description="Model inputs of the judgements (Parquet).")
    votes: Path | None = Field(None, description="Parsed votes (Parquet).")
    ratings: Path | None = Field(None, description="Ratings of the compared judgements (Parquet).")
    output: Path = Field(description="Output: pairs (Parquet).")
    ledger: Path = Field(description="Output: prompts without a pair, with the reason (Parquet).")


def pair_rows(outcomes: pl.DataFrame, inputs: pl.DataFrame, kind: str, iteration: int) -> pl.DataFrame:
    """Rows of table `pairs` from the outcomes of one kind that are pairs.

    `inputs` are the model inputs: rows of `candidate_prompts` (kind `actor`) or of `judge_prompts` (kind `judge`);
    a pair without its input has null `prompt_token_ids`.
    """
    key = "prompt_id" if kind == "actor" else "candidate_id"
    inputs = inputs.select(key, pl.col("messages").alias("prompt"), pl.col("token_ids").alias("prompt_token_ids"))
    rows = outcomes.filter(pl.col("reason").is_null()).join(inputs, on=key, how="left")
    return rows.with_columns(
        pl.lit(kind).alias("kind"),
        pl.format(f"{kind}-{iteration}-{{}}", "prompt_id").alias("pair_id"),
        *[column for side in ("chosen", "rejected") for column in _member(side, kind)],
    ).select(list(PAIRS.columns))


def _member(side: str, kind: str) -> list[pl.Expr]:
    """The columns of one member that differ between the kinds, and its assistant turn."""
    turn = pl.struct(pl.lit("assistant").alias("role"), pl.col(f"{side}_text").alias("content"))
    if kind == "actor":
        own = [pl.col(f"{side}_score").alias(f"score_{side}"), pl.lit(None, pl.Int64).alias(f"{side}_vote")]
    else:
        # The score that a judgement gives says nothing about its own quality: it must not serve as a margin.
        own = [pl.lit(None, pl.Float64).alias(f"score_{side}"), pl.col("candidate_id").alias(f"{side}_candidate_id")]
    return [pl.concat_list(turn).alias(side), *own]


def main(args: Args) -> None:
    """Choose, mix, write both tables."""
    args = resolve(args, args.iteration)
    share = at(args.judge_share, args.iteration)
    actor, judge = mix(_read_actor(args), _read_judge(args), share, args.max_pairs)
    pairs = pl.concat([_read_pairs(actor, "actor", args), _read_pairs(judge, "judge", args)])
    dropped = pl.concat([ledger(actor, "actor"), ledger(judge, "judge")])
    assert pairs.height + dropped.height == actor.height + judge.height, "a prompt is in neither pairs nor ledger"
    if pairs.is_empty():
        raise StageError(f"{args.prompts}: none of {actor.height} prompts yields a pair: {_reasons(dropped)}")
    inputs = [args.prompts, *args.candidates, *args.candidate_prompts, args.scores, *args.judgements]
    inputs += [*args.judge_prompts, *(path for path in (args.votes, args.ratings) if path)]
    origin = describe("pairs", args, inputs, seed=args.seed, iteration=args.iteration)
    write(pairs, args.output, PAIRS, origin)
    write(dropped, args.ledger, PAIR_LEDGER, origin)
    print(_summary(pairs, dropped, share), file=sys.stderr)


def _read_actor(args: Args) -> pl.DataFrame:
    prompts = read(args.prompts, PROMPTS, ["prompt_id"])
    candidates = read(args.candidates, CANDIDATES, [*CANDIDATE, *SAMPLED])
    return actor_outcomes(prompts, candidates, read(args.scores, SCORES), args, args.seed, args.iteration)


def _read_judge(args: Args) -> pl.DataFrame:
    """The judge's outcomes; no rows at all if the iteration compared no judgements."""
    given = [args.ratings, args.votes, args.judgements, args.judge_prompts]
    if any(given) and not all(given):
        raise StageError("--ratings, --votes, --judgements and --judge-prompts are needed together, or none of them")
    keys = [*CANDIDATE, "vote"]
    if args.ratings is None or args.votes is None:
        empty = frame(VOTES, []), frame(JUDGEMENTS, [])
        return judge_outcomes(frame(PROMPTS, []), frame(RATINGS, []), *empty, args, args.seed, args.iteration)
    prompts = read(args.prompts, PROMPTS, ["prompt_id"])
    ratings = read(args.ratings, RATINGS)
    votes = read(args.votes, VOTES, [*keys, "score"])
    judgements = _read_rows(args.judgements, JUDGEMENTS, [*keys, *SAMPLED], ratings, keys)
    lost = ratings.join(judgements, on=keys, how="anti")
    if lost.height:
        raise _lost(lost, "rated judgement", "--judgements", args.judgements)
    return judge_outcomes(prompts, ratings, votes, judgements, args, args.seed, args.iteration)


def _read_pairs(outcomes: pl.DataFrame, kind: str, args: Args) -> pl.DataFrame:
    if kind == "actor":
        flag, paths = "--candidate-prompts", args.candidate_prompts
        inputs = _read_rows(paths, CANDIDATE_PROMPTS, ["prompt_id", *INPUT], outcomes, ["prompt_id"])
    else:
        flag, paths = "--judge-prompts", args.judge_prompts
        inputs = _read_rows(paths, JUDGE_PROMPTS, ["candidate_id", *INPUT], outcomes, ["candidate_id"])
    rows = pair_rows(outcomes, inputs, kind, args.iteration)
    lost = rows.filter(pl.col("prompt_token_ids").is_null())
    if lost.height:
        raise _lost(lost, "model input of pair", flag, paths)
    return rows


def _read_rows(
    paths: list[Path], table: Table, columns: list[str], wanted: pl.DataFrame, on: list[str]
) -> pl.DataFrame:
    """The rows whose key is in `wanted`, read file by file: all judgements at once may not fit in memory."""
    parts = [read(path, table, columns).join(wanted, on=on, how="semi") for path in paths]
    return pl.concat([frame(table, []).select(columns), *parts])


def _lost(rows: pl.DataFrame, what: str, flag: str, paths: Sequence[Path]) -> StageError:
    first = rows.sort(rows.columns[0]).row(0, named=True)
    key = " ".join(f"{name} {first[name]}" for name in ("pair_id", "candidate_id", "vote") if name in first)
    files = ", ".join(map(str, paths))
    return StageError(
        f"{flag} ({files}): no row for {rows.height} x {what}, first {key}; give all of the iteration's files"
    )


def _reasons(dropped: pl.DataFrame) -> str:
    counts = dropped.group_by("kind", "reason").len().sort("kind", "len", "reason", descending=[False, True, False])
    return ", ".join(f"{kind} {reason} {count}" for kind, reason, count in counts.iter_rows()) or "nothing"


def _summary(pairs: pl.DataFrame, dropped: pl.DataFrame, share: float) -> str:
    judge = pairs.filter(pl.col("kind") == "judge").height
    text = f"pairs: {pairs.height - judge} actor and {judge} judge pairs (share {judge / pairs.height:.3f})"
    if judge < share * pairs.height - 0.5:
        text += f", too few judge pairs for judge_share {share:g}: all are used"
    return f"{text}; dropped: {_reasons(dropped)}"


if __name__ == "__main__":
    run(Args, main)
