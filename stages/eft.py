"""EFT: the judgements of ranked answers that agree with people become examples to learn judging from.

Reads:  ranked answers, their parsed votes, the judgements as raw text, and the model inputs they answer.
Does:   keeps the judgements whose scores order the answers as people did, once each, and thins the scores that are
        over-represented (Self-Rewarding section 3.1).
Writes: supervised examples (judge prompt, judgement), and a ledger with one reason for each judgement that is none.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from pydantic import Field

from stages.algorithms.agreement import KEPT, agreement, balance, drop_duplicates, limit
from stages.algorithms.draws import draws
from stages.config import AgreementSettings
from stages.contracts.artifacts import read, read_matching, write
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.files import Shards
from stages.contracts.ids import Seeds, digest, judgement_id
from stages.contracts.provenance import describe
from stages.contracts.schema import frame
from stages.tables import EFT_LEDGER, JUDGE_PROMPTS, JUDGEMENTS, RANKED, SFT_EXAMPLES, VOTES


class Args(AgreementSettings):
    """Command line of the stage."""

    seed: int = Field(0, ge=0, description="Run seed.")
    answers: Shards = Field(min_length=1, description="Ranked answers (Parquet files, or their folder).")
    votes: Path = Field(description="Parsed votes on them (Parquet).")
    judgements: Shards = Field(min_length=1, description="Judgements of them (Parquet).")
    judge_prompts: Shards = Field(min_length=1, description="Model inputs of the judgements (Parquet).")
    output: Path = Field(description="Output: supervised examples (Parquet).")
    ledger: Path = Field(description="Output: judgements that are not trained on, with the reason (Parquet).")


def examples(kept: pl.DataFrame) -> pl.DataFrame:
    """Rows of SFT_EXAMPLES from kept judgements (`candidate_id`, `vote`, `messages` of the judge prompt, `text`,
    `token_ids`)."""
    columns = ("candidate_id", "vote", "messages", "text", "token_ids")
    rows = [
        {
            "example_id": f"eft-{judgement_id(candidate, vote)}",
            "messages": [*messages, {"role": "assistant", "content": text}],
            "answer_token_ids": tokens,
            "prompt_loss_weight": 0.0,
        }
        for candidate, vote, messages, text, tokens in kept.select(columns).iter_rows()
    ]
    return frame(SFT_EXAMPLES, rows)


def _read_agreement(args: Args) -> pl.DataFrame:
    """Every judgement, sorted by key, with the reason of those that do not agree with people."""
    answers = read(args.answers, RANKED, [*RANKED.key, "rank"])
    votes = read(args.votes, VOTES, [*VOTES.key, "score", "parse_status"])
    _expect(votes.join(answers, on=RANKED.key, how="anti"), "ranked answer", "--answers", args.answers)
    # People ranked whole answers: what the judge made of a shortened one says nothing.
    shortened = read(args.judge_prompts, JUDGE_PROMPTS, [*RANKED.key, "shortened"]).filter("shortened")
    votes = votes.join(shortened, on=RANKED.key, how="left").with_columns(
        parse_status=pl.when("shortened").then(pl.lit("shortened")).otherwise("parse_status")
    )
    return agreement(answers, votes, args.agreement, args.tie_tolerance, args.allow_ties).sort(VOTES.key)


def _read_texts(wanted: pl.DataFrame, args: Args) -> pl.DataFrame:
    """The wanted judgements (by key), sorted by key, with `text`, `token_ids` and the `messages` that they answer."""
    texts = read_matching(args.judgements, JUDGEMENTS, [*VOTES.key, "text", "token_ids"], wanted, VOTES.key)
    inputs = read_matching(args.judge_prompts, JUDGE_PROMPTS, [*RANKED.key, "messages"], wanted, RANKED.key)
    _expect(wanted.join(texts, on=VOTES.key, how="anti"), "judgement", "--judgements", args.judgements)
    _expect(wanted.join(inputs, on=RANKED.key, how="anti"), "judge prompt", "--judge-prompts", args.judge_prompts)
    return texts.join(inputs, on=RANKED.key, validate="m:1").sort(VOTES.key)


def _expect(lost: pl.DataFrame, what: str, flag: str, paths: Sequence[Path]) -> None:
    if lost.height:
        candidate, vote = lost.sort(VOTES.key).select("candidate_id", "vote").row(0)
        raise StageError(
            f"{flag} ({', '.join(map(str, paths))}): no {what} for {lost.height} votes, first candidate {candidate} "
            f"vote {vote}; give all files of the same run"
        )


def _reasons(dropped: pl.DataFrame) -> str:
    counts = dropped.group_by("reason").len().sort("len", "reason", descending=[True, False])
    return ", ".join(f"{reason} {count}" for reason, count in counts.iter_rows()) or "nothing"


def _histogram(judged: pl.DataFrame) -> str:
    counts = judged.filter(KEPT).group_by("score").len().sort("score")
    return "{" + ", ".join(f"{score:g}: {count}" for score, count in counts.iter_rows()) + "}"


def main(args: Args) -> None:
    """Select, balance, check, write both tables."""
    judged = _read_agreement(args)
    agreed = _read_texts(judged.filter(KEPT).select(VOTES.key), args)
    contents = zip(agreed["messages"].to_list(), agreed["text"].to_list(), strict=True)
    example = pl.Series("example", [digest(*pair) for pair in contents], pl.String)
    judged = judged.join(agreed.select(*VOTES.key, example), on=VOTES.key, how="left")
    judged = judged.with_columns(draws(judged, VOTES.key, Seeds(args.seed, 0), "eft"))
    distinct = drop_duplicates(judged)
    outcomes = limit(balance(distinct, args.max_class_share), args.max_judgements)
    dropped = outcomes.filter(~KEPT)
    kept = examples(agreed.join(outcomes.filter(KEPT), on=VOTES.key, how="semi"))
    assert kept.height + dropped.height == judged.height, "a judgement is in neither examples nor ledger"
    if kept.is_empty():
        raise StageError(
            f"{args.votes}: none of {judged.height} judgements agrees with people's ranks: {_reasons(dropped)}; read "
            "some judgements, then look at the judge's template and score.pattern, set eft.allow_ties or "
            "eft.agreement=pairs, or ask for more eft.votes"
        )
    paths = [*args.answers, args.votes, *args.judgements, *args.judge_prompts]
    origin = describe("eft", args, paths, seed=args.seed)
    write(kept, args.output, SFT_EXAMPLES, origin)
    write(dropped, args.ledger, EFT_LEDGER, origin)
    print(
        f"eft: {kept.height} of {judged.height} judgements kept; dropped {_reasons(dropped)}; scores "
        f"{_histogram(distinct)} before balancing, {_histogram(outcomes)} after",
        file=sys.stderr,
    )


if __name__ == "__main__":
    run(Args, main)
