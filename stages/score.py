"""Score: parse the judgements and aggregate them to one score per candidate. Cheap: a new pattern regenerates nothing.

Reads:  judgements and verifications (any number of files each), judge prompts if `exclude_shortened` is set
Does:   takes the last match of `pattern` in each judgement as its vote, then mean, median or expectation, variance and
        count per candidate; candidates with verifications are scored by the share of checks that they passed; fails
        when too few votes parse, too many give the highest score, or all scores are equal
Writes: votes (one row per judgement), scores (one row per candidate)

The tables pass through in pieces of whole prompts, so that memory does not grow with the number of judgements.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import floor, fsum
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from stages.algorithms.aggregation import CANDIDATE, DECIMALS, aggregate
from stages.algorithms.parsing import parse_score
from stages.config import ScoreSection
from stages.contracts.artifacts import Writer, frame, stream
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.provenance import describe
from stages.tables import JUDGE_PROMPTS, JUDGEMENTS, SCORES, VERIFICATIONS, VOTES

_KEPT = ["prompt_id", "candidate_id", "vote", "finish_reason", "tokens", "logprob"]


class Args(ScoreSection):
    """Flags of this stage."""

    judgements: list[Path] = Field([], description="Judgements: Parquet files.")
    verifications: list[Path] = Field([], description="Carried out checks: Parquet files.")
    judge_prompts: list[Path] = Field([], description="Judge prompts, for `exclude_shortened`: Parquet files.")
    votes: Path = Field(description="Output: parsed votes (Parquet).")
    scores: Path = Field(description="Output: scores (Parquet).")


@dataclass
class Tally:
    """What the gates and the summary need to know of all votes and scores: how often each value occurs."""

    statuses: Counter[str] = field(default_factory=Counter)
    votes: Counter[float] = field(default_factory=Counter)
    candidates: Counter[str] = field(default_factory=Counter)
    judged: Counter[float] = field(default_factory=Counter)
    variances: Counter[float] = field(default_factory=Counter)

    def add(self, votes: pl.DataFrame, scores: pl.DataFrame) -> None:
        """Count the rows of tables `votes` and `scores`."""
        self.statuses.update(_counts(votes["parse_status"]))
        self.votes.update(_counts(votes["score"]))
        self.candidates.update(_counts(scores["status"]))
        self.judged.update(_counts(scores.filter(pl.col("status") == "ok")["score"]))
        self.variances.update(_counts(scores["variance"]))


def parse(judgements: pl.DataFrame, settings: ScoreSection) -> pl.DataFrame:
    """Rows of table `votes` from rows of table `judgements` (keys, text, finish reason, tokens, logprob)."""
    texts, reasons = judgements["text"].to_list(), judgements["finish_reason"].to_list()
    pattern, low, high = settings.pattern, settings.low, settings.high
    parsed = [parse_score(text, reason, pattern, low, high) for text, reason in zip(texts, reasons, strict=True)]
    spans = [vote.span for vote in parsed]
    verdicts = [None if span is None else text[slice(*span)] for text, span in zip(texts, spans, strict=True)]
    start, end = (pl.Series([None if span is None else span[i] for span in spans], dtype=pl.Int64) for i in (0, 1))
    return judgements.select(
        *_KEPT,
        pl.Series("score", [vote.value for vote in parsed], dtype=pl.Float64),
        pl.when(start.is_not_null()).then(pl.concat_list(start, end)).alias("span"),
        pl.Series("verdict", verdicts, dtype=pl.String),
        pl.Series("parse_status", [vote.status for vote in parsed], dtype=pl.String),
    )


def passed_shares(verifications: pl.DataFrame) -> pl.DataFrame:
    """`prompt_id`, `candidate_id`, `passed` (share of the checks, in [0, 1]) from rows of table `verifications`."""
    return verifications.group_by(CANDIDATE).agg(pl.col("passed").mean())


def score(votes: pl.DataFrame, passed: pl.DataFrame, shortened: pl.DataFrame, settings: ScoreSection) -> pl.DataFrame:
    """Rows of table `scores` for the candidates in `votes` and in `passed` (rows of `passed_shares`).

    Checks decide before votes: a candidate in `passed` is `verified` and scored low + (high - low) * share. One that is
    only in `shortened` (by its keys) has no score: the judge did not see all of it.
    """
    unseen = shortened.select(*CANDIDATE, unseen=pl.lit(True))
    checked = pl.col("passed").is_not_null()
    share = (settings.low + (settings.high - settings.low) * pl.col("passed")).round(DECIMALS)
    return (
        aggregate(votes, settings.aggregate, settings.min_votes)
        .join(passed, on=CANDIDATE, how="full", coalesce=True)
        .join(unseen, on=CANDIDATE, how="left")
        .with_columns(
            pl.col("valid_votes", "votes").fill_null(0),
            score=pl.when(checked).then(share).when(pl.col("unseen").is_null()).then("score"),
            status=pl.when(checked)
            .then(pl.lit("verified"))
            .when(pl.col("unseen"))
            .then(pl.lit("shortened"))
            .otherwise("status"),
        )
        .select(list(SCORES.columns))
    )


def pieces(args: Args) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """All rows of tables `votes` and `scores`, some prompts at a time, in the order of the prompts."""
    passed = pl.concat(
        [passed_shares(frame(VERIFICATIONS, []))]
        + [passed_shares(piece) for piece in stream(args.verifications, VERIFICATIONS, [*CANDIDATE, "passed"])]
    )
    judge_prompts = args.judge_prompts if args.exclude_shortened else []
    shortened = pl.concat(
        [frame(JUDGE_PROMPTS, []).select(CANDIDATE)]
        + [
            piece.filter("shortened").select(CANDIDATE)
            for piece in stream(judge_prompts, JUDGE_PROMPTS, [*CANDIDATE, "shortened"])
        ]
    )
    for judgements in stream(args.judgements, JUDGEMENTS, [*_KEPT, "text"]):
        votes = parse(judgements, args)
        due = pl.col("prompt_id") <= judgements["prompt_id"][-1]
        yield votes, score(votes, passed.filter(due), shortened, args)
        passed = passed.filter(~due)
    none = frame(VOTES, [])
    yield none, score(none, passed, shortened, args)


def check(tally: Tally, settings: ScoreSection) -> None:
    """The gates: StageError if there is nothing to score, or if the votes or the scores that they give tell nothing.

    Where checks score all candidates and nothing was judged, there are no votes to doubt.
    """
    if not tally.candidates:
        raise StageError("the judgement files have no rows: nothing to score; look at the judge stage's log")
    if tally.statuses:
        _check_votes(tally, settings)
        _check_scores(tally, settings)


def _check_votes(tally: Tally, settings: ScoreSection) -> None:
    asked, parsed, top = tally.statuses.total(), tally.statuses["ok"], _top(tally, settings)
    if parsed < settings.min_parse_rate * asked:
        raise StageError(
            f"only {parsed} of {asked} judgements parsed ({parsed / asked:.1%}, min_parse_rate is "
            f"{settings.min_parse_rate:.1%}): {_listed(tally.statuses)}. Read some judgements; then adapt "
            "score.pattern (no_match), score.low and score.high (out_of_range), judge.sampling.max_tokens (length) "
            "or the template"
        )
    if top > settings.max_top_share * parsed:
        raise StageError(
            f"{top} of {parsed} valid votes lie in the top tenth of the range ({top / parsed:.1%}, "
            f"max_top_share is {settings.max_top_share:.1%}): the judge collapses, as in Meta-Rewarding after too "
            "much training on judge pairs. Go back to the model before and train it with a smaller pairs.judge_share "
            "or pairs.max_judge_class_share; if the responses deserve these votes, use a stricter template or raise "
            "score.max_top_share"
        )


def _check_scores(tally: Tally, settings: ScoreSection) -> None:
    judged = tally.candidates["ok"]
    if not judged and not tally.candidates["verified"]:
        reasons = f"{_listed(tally.statuses)}; candidates: {_listed(tally.candidates)}"
        raise StageError(
            f"no candidate has the {settings.min_votes} valid votes that score.min_votes asks for, on a response that "
            f"was judged whole if score.exclude_shortened is set ({reasons}); ask for more judge.votes, for fewer "
            "score.min_votes, or for a longer engine.max_sequence_length"
        )
    # With checked candidates beside them, a few judged ones may well be equal.
    if judged > 1 and len(tally.judged) == 1 and not tally.candidates["verified"]:
        raise StageError(
            f"all {judged} scored candidates have the score {next(iter(tally.judged)):g}: the judge tells nothing "
            "apart, no pairs can come of it; check the judge's template and the model, or that score.pattern reads the "
            "verdict"
        )


def main(args: Args) -> None:
    """Parse, aggregate and write piece by piece; the outputs are replaced only once the gates are passed."""
    if not args.judgements and not args.verifications:
        raise StageError("nothing to score: give --judgements, --verifications or both")
    if args.exclude_shortened and args.judgements and not args.judge_prompts:
        raise StageError("score.exclude_shortened needs to know what was shortened: give --judge-prompts")
    origin = describe("score", args, [*args.judgements, *args.verifications, *args.judge_prompts])
    tally = Tally()
    with Writer(args.votes, VOTES, origin) as all_votes, Writer(args.scores, SCORES, origin) as all_scores:
        for votes, scores in pieces(args):
            all_votes.write(votes)
            all_scores.write(scores)
            tally.add(votes, scores)
        check(tally, args)
    print(_summary(tally, args), file=sys.stderr)


def _top(tally: Tally, settings: ScoreSection) -> int:
    """Votes in the top tenth of the range: a judge that collapses also says 4.75 or 4.9 (Meta-Rewarding, section 5)."""
    threshold = settings.high - (settings.high - settings.low) / 10
    return sum(count for value, count in tally.votes.items() if value >= threshold)


def _summary(tally: Tally, settings: ScoreSection) -> str:
    scored = tally.candidates["ok"] + tally.candidates["verified"]
    parts = [f"{tally.statuses.total()} judgements ({_listed(tally.statuses)})"] if tally.statuses else []
    if valid := tally.votes.total():
        points: Counter[int] = Counter()
        for value, count in tally.votes.items():
            points[floor(value)] += count
        histogram = ", ".join(f"{point}: {points[point]}" for point in sorted(points))
        parts += [
            f"{valid / tally.statuses.total():.1%} parsed",
            f"votes by whole points {{{histogram}}}",
            f"top tenth {_top(tally, settings) / valid:.1%}",
        ]
    parts.append(f"{scored} of {tally.candidates.total()} candidates scored ({_listed(tally.candidates)})")
    if tally.judged:
        parts.append(f"mean {_mean(tally.judged):.3f}, mean variance {_mean(tally.variances):.3f}")
    return "score: " + ", ".join(parts)


def _counts(values: pl.Series) -> dict[Any, int]:
    return dict(values.drop_nulls().value_counts().iter_rows())


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _mean(counts: Counter[float]) -> float:
    return fsum(value * count for value, count in counts.items()) / counts.total()


if __name__ == "__main__":
    run(Args, main)
