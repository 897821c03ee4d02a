"""Score: parse the judgements and aggregate them to one score per candidate. Cheap: a new pattern regenerates nothing.

Reads:  judgements and verifications (any number of files each), judge prompts if `exclude_shortened` is set
Does:   takes the last verdict of each judgement as its vote, then mean, median or expectation, variance and
        count per candidate; candidates with verifications are scored by checks, or by both (`combine`); fails
        when too few votes parse, too many lie in the top tenth of the range, or too few prompts have candidates of
        unequal scores; warns before
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

from stages.algorithms.aggregation import passed_shares, scores
from stages.algorithms.top_scores import top_from
from stages.algorithms.votes_and_battles import OF_JUDGEMENTS, parse_votes
from stages.config import ScoreSection
from stages.contracts.artifacts import Writer, stream
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.files import Shards
from stages.contracts.gates import gate
from stages.contracts.provenance import describe
from stages.contracts.schema import frame
from stages.tables import JUDGE_PROMPTS, JUDGEMENTS, SCORES, VERIFICATIONS, VOTES


class Args(ScoreSection):
    """Command line of the stage."""

    judgements: Shards = Field([], description="Judgements: Parquet files.")
    verifications: Shards = Field([], description="Carried out checks: Parquet files.")
    judge_prompts: Shards = Field([], description="Judge prompts, for `exclude_shortened`: Parquet files.")
    votes: Path = Field(description="Output: parsed votes (Parquet).")
    scores: Path = Field(description="Output: scores (Parquet).")


@dataclass
class VoteTally:
    """How often each status and each value occurs among votes."""

    statuses: Counter[str] = field(default_factory=Counter)
    values: Counter[float] = field(default_factory=Counter)


@dataclass
class Tally:
    """What the gates and the summary need to know of all votes and scores: how often each value occurs."""

    judges: dict[str, VoteTally] = field(default_factory=dict)
    candidates: Counter[str] = field(default_factory=Counter)
    judged: Counter[float] = field(default_factory=Counter)
    variances: Counter[float] = field(default_factory=Counter)
    likelihoods: int = 0
    """Valid votes with a known likelihood."""
    prompts: int = 0
    """Prompts with several scored candidates, and of these..."""
    flat: int = 0
    """...those whose candidates all have the same score."""

    def add(self, votes: pl.DataFrame, scores: pl.DataFrame) -> None:
        """Count the rows of tables `votes` and `scores`."""
        for (judge,), cast in votes.group_by("judge", maintain_order=True):
            mine = self.judges.setdefault(str(judge), VoteTally())
            mine.statuses.update(_counts(cast["parse_status"]))
            mine.values.update(_counts(cast["score"]))
        self.likelihoods += votes.drop_nulls(["score", "logprob"]).height
        self.candidates.update(_counts(scores["status"]))
        self.judged.update(_counts(scores.filter(pl.col("status") == "ok")["score"]))
        self.variances.update(_counts(scores["variance"]))
        several = (
            scores.drop_nulls("score").group_by("prompt_id").agg(pl.len(), pl.col("score").n_unique().alias("values"))
        )
        several = several.filter(pl.col("len") > 1)
        self.prompts += several.height
        self.flat += several.filter(values=1).height

    @property
    def statuses(self) -> Counter[str]:
        """How often each status occurs, whoever voted."""
        return sum((judge.statuses for judge in self.judges.values()), Counter())


def pieces(args: Args) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """All rows of tables `votes` and `scores`, some prompts at a time, in the order of the prompts."""
    passed = pl.concat(
        [passed_shares(frame(VERIFICATIONS, []))]
        + [passed_shares(piece) for piece in stream(args.verifications, VERIFICATIONS, [*SCORES.key, "passed"])]
    )
    judge_prompts = args.judge_prompts if args.exclude_shortened else []
    shortened = pl.concat(
        [frame(JUDGE_PROMPTS, []).select(SCORES.key)]
        + [
            piece.filter("shortened").select(SCORES.key)
            for piece in stream(judge_prompts, JUDGE_PROMPTS, [*SCORES.key, "shortened"])
        ]
    ).unique()  # several judges may each have seen a part
    for judgements in stream(args.judgements, JUDGEMENTS, OF_JUDGEMENTS):
        votes = parse_votes(judgements, args)
        due = pl.col("prompt_id") <= judgements["prompt_id"][-1]
        yield votes, scores(votes, passed.filter(due), shortened, args)
        passed = passed.filter(~due)
    none = frame(VOTES, [])
    yield none, scores(none, passed, shortened, args)


def check(tally: Tally, settings: ScoreSection) -> None:
    """The gates: StageError if there is nothing to score, or if the votes or the scores that they give tell nothing.

    Where checks score all candidates and nothing was judged, there are no votes to doubt.
    """
    if not tally.candidates:
        raise StageError("the judgement files have no rows: nothing to score; look at the judge stage's log")
    if tally.judges:
        _check_likelihoods(tally, settings)
        for name, judge in sorted(tally.judges.items()):
            _check_votes(judge, settings, f" of judge {name}" if len(tally.judges) > 1 else "")
        _check_scores(tally, settings)


REMEDIES = {
    "no_match": "read some judgements; then adapt the template, or score.pattern",
    "out_of_range": "see that score.low and score.high are those of the template's scale",
    "length": "the judge is cut before its verdict: raise judge.sampling.max_tokens",
    "error": "see the judge stage's log for what the engine said",
}
"""What to do about votes that were not read, by parse status."""


def _check_likelihoods(tally: Tally, settings: ScoreSection) -> None:
    if settings.aggregate == "expected" and tally.statuses["ok"] and not tally.likelihoods:
        raise StageError(
            "score.aggregate is `expected`, but the engine told no likelihood of any judgement; see the judge stage's "
            "log, or use `mean`"
        )


def _check_votes(judge: VoteTally, settings: ScoreSection, whose: str) -> None:
    asked, read = judge.statuses.total(), judge.statuses["ok"]
    remedies = [REMEDIES[status] for status, _ in judge.statuses.most_common() if status in REMEDIES]
    what = f"judgements{whose} did not parse (score.min_parse_rate; {_listed(judge.statuses)})"
    gate(asked - read, asked, 1 - settings.min_parse_rate, what, "; ".join(remedies))
    gate(
        _top(judge, settings),
        read,
        settings.max_top_share,
        f"valid votes{whose} lie in the top tenth of the range (score.max_top_share)",
        "the judge collapses, as in Meta-Rewarding after too much training on judge pairs. Go back to the model before "
        "and train it with a smaller pairs.judge_share or pairs.max_judge_class_share; if the responses deserve these "
        "votes, use a stricter template or raise the limit",
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
    gate(
        tally.flat,
        tally.prompts,
        settings.max_flat_share,
        "prompts have candidates that all score the same (score.max_flat_share)",
        "no pair can come of those; see whether the candidates differ (candidates.sampling), and whether the judge's "
        "template makes it tell them apart; more judge.votes give finer scores",
    )


def _top(judge: VoteTally, settings: ScoreSection) -> int:
    """Votes in the top tenth of the range, as the report counts them."""
    threshold = top_from(settings.high, settings.low)
    return sum(count for value, count in judge.values.items() if value >= threshold)


def _summary(tally: Tally, settings: ScoreSection) -> str:
    scored = tally.candidates["ok"] + tally.candidates["verified"]
    parts = []
    for name, judge in sorted(tally.judges.items()):
        parts += [f"judge {name}"] if len(tally.judges) > 1 else []
        parts += _summary_of_votes(judge, settings)
    parts.append(f"{scored} of {tally.candidates.total()} candidates scored ({_listed(tally.candidates)})")
    if tally.judged:
        parts.append(f"mean {_mean(tally.judged):.3f}, mean variance {_mean(tally.variances):.3f}")
    return "score: " + ", ".join(parts)


def _summary_of_votes(judge: VoteTally, settings: ScoreSection) -> list[str]:
    asked, valid = judge.statuses.total(), judge.values.total()
    parts = [f"{asked} judgements ({_listed(judge.statuses)})"]
    if valid:
        points: Counter[int] = Counter()
        for value, count in judge.values.items():
            points[floor(value)] += count
        histogram = ", ".join(f"{point}: {points[point]}" for point in sorted(points))
        parts += [
            f"{valid / asked:.1%} parsed",
            f"votes by whole points {{{histogram}}}",
            f"top tenth {_top(judge, settings) / valid:.1%}",
        ]
    return parts


def _counts(values: pl.Series) -> dict[Any, int]:
    return dict(values.drop_nulls().value_counts().iter_rows())


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _mean(counts: Counter[float]) -> float:
    return fsum(value * count for value, count in counts.items()) / counts.total()


def main(args: Args) -> None:
    """Parse, aggregate and write piece by piece; the outputs are replaced only once the gates are passed."""
    if not args.judgements and not args.verifications:
        raise StageError("nothing to score: give --judgements, --verifications or both")
    if args.exclude_shortened and args.judgements and not args.judge_prompts:
        raise StageError("score.exclude_shortened needs to know what was shortened: give --judge-prompts")
    origin = describe("score", args, [*args.judgements, *args.verifications, *args.judge_prompts])
    tally = Tally()
    with Writer(args.votes, VOTES, origin) as all_votes, Writer(args.scores, SCORES, origin) as all_scores:
        for votes, scored in pieces(args):
            all_votes.write(votes)
            all_scores.write(scored)
            tally.add(votes, scored)
        check(tally, args)
    print(_summary(tally, args), file=sys.stderr)


if __name__ == "__main__":
    run(Args, main)
