"""Pairs: the preference pairs that an iteration trains on, and a reason for every prompt that gives none.

Reads:  the iteration's prompts, candidates with their model inputs, scores; where judgements were compared also
        judgements with their model inputs, votes and ratings; pairs of earlier iterations.
Does:   actor pairs by score and length (length control) or all of a prompt's, judge pairs by rating, none that an
        earlier iteration had, and the mix of both with an exact share of judge pairs.
Writes: pairs, and the ledger: per kind, every prompt is in one of them, and whatever was considered in exactly one.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from pydantic import Field

from stages.algorithms.pair_mix import ledger, mix
from stages.algorithms.pair_outcomes import actor_outcomes, judge_outcomes
from stages.config import PairsSection, resolve, resolved
from stages.contracts.artifacts import read, read_matching, write
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.files import Shards
from stages.contracts.ids import Seeds
from stages.contracts.provenance import describe
from stages.contracts.schema import frame
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

SAMPLED = ["text", "token_ids", "tokens", "finish_reason"]
INPUT = ["messages", "token_ids"]
MEMBER = {"actor": ["candidate_id"], "judge": ["candidate_id", "vote"]}
"""What names one member of a pair."""


class Args(PairsSection):
    """Command line of the stage."""

    seed: int = Field(0, ge=0, description="Run seed.")
    iteration: int = Field(ge=1, description="Iteration that the pairs train, from 1.")
    prompts: Path = Field(description="The iteration's prompts (Parquet).")
    candidates: Shards = Field(min_length=1, description="Candidates (Parquet).")
    candidate_prompts: Shards = Field(min_length=1, description="Model inputs of the candidates (Parquet).")
    scores: Path = Field(description="Scores of the candidates (Parquet).")
    judgements: Shards = Field([], description="Judgements (Parquet); only where they were compared.")
    judge_prompts: Shards = Field([], description="Model inputs of the judgements (Parquet).")
    votes: Path | None = Field(None, description="Parsed votes (Parquet).")
    ratings: Path | None = Field(None, description="Ratings of the compared judgements (Parquet).")
    previous: list[Path] = Field([], description="Pairs of earlier iterations, not to be repeated (Parquet).")
    output: Path = Field(description="Output: pairs (Parquet).")
    ledger: Path = Field(description="Output: what gave no pair, with the reason (Parquet).")


def pair_rows(
    outcomes: pl.DataFrame, members: pl.DataFrame, inputs: pl.DataFrame, kind: str, iteration: int
) -> pl.DataFrame:
    """Rows of table `pairs` from the outcomes of one kind that are pairs.

    `members` are candidates (kind `actor`) or judgements (kind `judge`), with their keys and token_ids; `inputs` the
    model inputs: rows of `candidate_prompts` or of `judge_prompts`. A pair without its input has null
    `prompt_token_ids`.
    """
    key = "prompt_id" if kind == "actor" else "candidate_id"
    inputs = inputs.select(key, pl.col("messages").alias("prompt"), pl.col("token_ids").alias("prompt_token_ids"))
    rows = outcomes.filter(pl.col("reason").is_null()).join(inputs, on=key, how="left")
    for side in ("chosen", "rejected"):
        # Both judgements are of one candidate, whose key has no side.
        names = {"vote": f"{side}_vote", "token_ids": f"{side}_token_ids"}
        names |= {"candidate_id": f"{side}_candidate_id"} if kind == "actor" else {}
        sampled = members.select(*MEMBER[kind], "token_ids").rename(names, strict=False)
        rows = rows.join(sampled, on=[names.get(name, name) for name in MEMBER[kind]], how="left")
    return rows.with_columns(
        pl.lit(kind).alias("kind"),
        pl.format(f"{kind}-{iteration}-{{}}-{{}}", "prompt_id", "pair").alias("pair_id"),
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


def earlier_pairs(pairs: pl.DataFrame) -> pl.DataFrame:
    """`kind`, `prompt_id`, `chosen_text`, `rejected_text`, and `earlier`, the pair_id of the first pair with these.

    `pairs` are rows of table `pairs` (kind, prompt_id, pair_id, chosen, rejected), earlier iterations first.
    """
    texts = [pl.col(side).list.last().struct.field("content").alias(f"{side}_text") for side in ("chosen", "rejected")]
    rows = pairs.select("kind", "prompt_id", *texts, pl.col("pair_id").alias("earlier"))
    return rows.unique(rows.columns[:-1], keep="first", maintain_order=True)


def _read_judged(args: Args) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Ratings, and the judgements that are rated; no rows at all if the iteration compared none."""
    given = [args.ratings, args.votes, args.judgements, args.judge_prompts]
    if any(given) and not all(given):
        raise StageError("--ratings, --votes, --judgements and --judge-prompts are needed together, or none of them")
    if args.ratings is None:
        return frame(RATINGS, []), frame(JUDGEMENTS, [])
    keys = list(RATINGS.key)
    ratings = read(args.ratings, RATINGS)
    judgements = read_matching(args.judgements, JUDGEMENTS, [*keys, *SAMPLED], ratings, keys)
    lost = ratings.join(judgements, on=keys, how="anti")
    if lost.height:
        raise _lost(lost, "rated judgement", "--judgements", args.judgements)
    return ratings, judgements


def _judge_outcomes(
    args: Args, prompts: pl.DataFrame, ratings: pl.DataFrame, judgements: pl.DataFrame, earlier: pl.DataFrame
) -> pl.DataFrame:
    keys = list(RATINGS.key)
    if args.votes is None:
        prompts, votes = prompts.clear(), frame(VOTES, [])
    else:
        votes = read_matching([args.votes], VOTES, [*keys, "score"], ratings, keys)
        lost = ratings.join(votes, on=keys, how="anti")
        if lost.height:
            raise _lost(lost, "vote of a rated judgement", "--votes", [args.votes])
    return judge_outcomes(prompts, ratings, votes, judgements, earlier, args, Seeds(args.seed, args.iteration))


def _read_earlier(args: Args, prompts: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Per kind, the earlier pairs of these prompts that must not come again."""
    columns = ["kind", "prompt_id", "pair_id", "chosen", "rejected"]
    paths = [] if args.repeat else args.previous
    rows = earlier_pairs(read_matching(paths, PAIRS, columns, prompts, ["prompt_id"]))
    return {kind: rows.filter(pl.col("kind") == kind).drop("kind") for kind in ("actor", "judge")}


def _read_pairs(outcomes: pl.DataFrame, members: pl.DataFrame, kind: str, args: Args) -> pl.DataFrame:
    wanted = outcomes.filter(pl.col("reason").is_null())
    if kind == "actor":
        flag, paths = "--candidate-prompts", args.candidate_prompts
        inputs = read_matching(paths, CANDIDATE_PROMPTS, ["prompt_id", *INPUT], wanted, ["prompt_id"])
    else:
        flag, paths = "--judge-prompts", args.judge_prompts
        inputs = read_matching(paths, JUDGE_PROMPTS, ["candidate_id", *INPUT], wanted, ["candidate_id"])
    rows = pair_rows(wanted, members, inputs, kind, args.iteration)
    lost = rows.filter(pl.col("prompt_token_ids").is_null())
    if lost.height:
        raise _lost(lost, "model input of pair", flag, paths)
    return rows


def _check_conservation(
    prompts: pl.DataFrame, outcomes: pl.DataFrame, pairs: pl.DataFrame, dropped: pl.DataFrame, single: bool
) -> None:
    """Whatever was considered of one kind is a pair or in the ledger, and so is every prompt (`single`: once)."""
    found = pl.concat([table.select("prompt_id") for table in (pairs, dropped)])
    assert found.height == outcomes.height, f"{outcomes.height} outcomes, but {found.height} in pairs and ledger"
    forgotten = prompts.join(found, on="prompt_id", how="anti").height
    assert not forgotten, f"{forgotten} prompts are neither in pairs nor in the ledger"
    assert not single or found.height == prompts.height, f"{found.height} pairs and ledger rows of {prompts.height}"


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
        capped = "class_cap" in dropped["reason"]
        why = "max_judge_class_share allows no more" if capped else "all are used"
        text += f", too few judge pairs for judge_share {share:g}: {why}"
    return f"{text}; dropped: {_reasons(dropped)}"


def main(args: Args) -> None:
    """Choose, mix, write both tables."""
    args = resolve(args, args.iteration)
    share, seeds = resolved(args.judge_share), Seeds(args.seed, args.iteration)
    prompts = read(args.prompts, PROMPTS, ["prompt_id"])
    candidates = read(args.candidates, CANDIDATES, [*CANDIDATES.key, *SAMPLED])
    ratings, judgements = _read_judged(args)
    earlier = _read_earlier(args, prompts)
    scores = read(args.scores, SCORES)
    actor = actor_outcomes(prompts, candidates, scores, earlier["actor"], args, seeds)
    judge = _judge_outcomes(args, prompts, ratings, judgements, earlier["judge"])
    actor, judge = mix(actor, judge, share, args.max_pairs, args.max_judge_class_share)
    chosen = [_read_pairs(actor, candidates, "actor", args), _read_pairs(judge, judgements, "judge", args)]
    left = [ledger(actor, "actor"), ledger(judge, "judge")]
    _check_conservation(prompts, actor, chosen[0], left[0], single=args.per_prompt == "best_worst")
    if args.ratings:
        _check_conservation(prompts, judge, chosen[1], left[1], single=True)
    pairs, dropped = pl.concat(chosen), pl.concat(left)
    if pairs.is_empty():
        raise StageError(f"{args.prompts}: none of {prompts.height} prompts yields a pair: {_reasons(dropped)}")
    inputs = [args.prompts, *args.candidates, *args.candidate_prompts, args.scores, *args.judgements]
    inputs += [*args.judge_prompts, *(path for path in (args.votes, args.ratings) if path), *args.previous]
    origin = describe("pairs", args, inputs, seed=args.seed, iteration=args.iteration)
    write(pairs, args.output, PAIRS, origin)
    write(dropped, args.ledger, PAIR_LEDGER, origin)
    print(_summary(pairs, dropped, share), file=sys.stderr)


if __name__ == "__main__":
    run(Args, main)
