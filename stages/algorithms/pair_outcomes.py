"""What becomes of each prompt: its actor pairs and its judge pair, or for each the first reason why there is none.

Both functions give one row per prompt (one per pair considered, where all pairs of a prompt are asked for) with
prompt_id, pair (its number within the prompt), chosen_* and rejected_* (the member's key, score, tokens and text),
`reason` (null: a pair), `detail` (the numbers behind it), and what the mix needs: `class` and `draw`.
"""

import math

import polars as pl

from stages.algorithms.draws import draws
from stages.algorithms.pair_members import (
    RATING_TOLERANCE,
    SCORE_TOLERANCE,
    actor_members,
    all_members,
    at_an_end,
    judge_members,
)
from stages.algorithms.thoughts import answers_of
from stages.algorithms.twins import join_twins
from stages.config import PairsSection, Schedule, resolved
from stages.contracts.ids import Seeds
from stages.tables import SCORES, VOTES

Reason = tuple[str, pl.Expr, pl.Expr]
"""Name, condition, detail."""

_SIDES = ("chosen", "rejected")
_TEXTS = ["chosen_text", "rejected_text"]
_SAME_TEXT: Reason = (
    "identical",
    pl.col("chosen_text") == pl.col("rejected_text"),
    pl.lit("chosen and rejected have the same text"),
)
_REPEATED: Reason = ("repeated", pl.col("earlier").is_not_null(), pl.format("the same as {}", "earlier"))


def actor_outcomes(
    prompts: pl.DataFrame,
    candidates: pl.DataFrame,
    scores: pl.DataFrame,
    earlier: pl.DataFrame,
    settings: PairsSection,
    seeds: Seeds,
) -> pl.DataFrame:
    """Outcomes of the pairs of responses; only candidates that ended by themselves and have a score take part (as
    rejected ones also cut ones, with `truncated: rejected`), and of those with the same text the first
    (`twins.join_twins`).

    `prompts` (prompt_id), `candidates` (keys, text, tokens, finish_reason) and `scores` are rows of their tables,
    `earlier` are actor pairs not to be repeated (prompt_id, chosen_text, rejected_text, and their pair_id in
    `earlier`). The members' keys are chosen_candidate_id and rejected_candidate_id.
    """
    ended, scored = pl.col("finish_reason") == "stop", pl.col("score").is_not_null()
    takes_part = ended | ((pl.col("finish_reason") == "length") & (settings.truncated == "rejected"))
    unanswered = ended & (pl.col("text").str.strip_chars() != "") & (pl.col("seen").str.strip_chars() == "")
    known = candidates.with_columns(answers_of(candidates["text"]).alias("seen")).join(
        scores.select(*SCORES.key, "score", "variance", "valid_votes", "status"), on=SCORES.key, how="left"
    )
    usable = join_twins(known.drop("seen").filter(takes_part & scored))
    usable = usable.with_columns(draws(usable, ["candidate_id"], seeds, "pairs.candidate"))
    if settings.per_prompt == "all":
        members = all_members(usable, settings.min_margin, ended)
    else:
        members = actor_members(usable, resolved(settings.length_control), ended)
    tally = known.group_by("prompt_id").agg(
        sampled=pl.len(),
        failed=(pl.col("finish_reason") == "error").sum(),
        ended=ended.sum(),
        usable=takes_part.sum(),
        judged=(takes_part & pl.col("status").is_not_null()).sum(),
        unanswered=unanswered.sum(),
        scored=(takes_part & scored).sum(),
        winners=(ended & scored).sum(),
        shortened=(takes_part & (pl.col("status") == "shortened")).sum(),
    )
    best = pl.col("score").filter(ended).max()
    texts = usable.group_by("prompt_id").agg(texts=pl.len(), best=best, spread=best - pl.col("score").min())
    rows = prompts.select("prompt_id", draws(prompts, ["prompt_id"], seeds, "pairs.actor"))
    for part in (tally, texts, members):
        rows = rows.join(part, on="prompt_id", how="left")
    rows = rows.with_columns(pl.col("sampled", "pair").fill_null(0), pl.lit(0.0).alias("class"))
    member = usable.select("candidate_id", "score", "tokens", "text")
    for side in _SIDES:
        rows = rows.join(member.select(pl.all().name.prefix(f"{side}_")), on=f"{side}_candidate_id", how="left")
    rows = rows.join(earlier, on=["prompt_id", *_TEXTS], how="left")
    return _limited(_explain(rows, _actor_reasons(settings)), settings.max_pairs_per_prompt)


def judge_outcomes(
    prompts: pl.DataFrame,
    ratings: pl.DataFrame,
    votes: pl.DataFrame,
    judgements: pl.DataFrame,
    earlier: pl.DataFrame,
    settings: PairsSection,
    seeds: Seeds,
) -> pl.DataFrame:
    """Outcomes of the pairs of judgements of each prompt's compared candidate, which is `candidate_id`.

    `ratings`, `votes` (keys, score) and `judgements` (keys, text, tokens, finish_reason) are rows of their tables;
    votes and judgements that are not rated may be left out. `earlier` are judge pairs not to be repeated, as for
    `actor_outcomes`. The members' keys are chosen_vote and rejected_vote. The classes are the whole points of the
    chosen judgement's score.
    """
    ends = ratings.filter(at_an_end())
    drawn = ends.with_columns(draws(ends, ["candidate_id", "vote"], seeds, "pairs.judgement"))
    rows = prompts.select("prompt_id", draws(prompts, ["prompt_id"], seeds, "pairs.judge"))
    rows = rows.join(judge_members(drawn), on="prompt_id", how="left")
    member = judgements.join(votes.select(*VOTES.key, "score"), on=VOTES.key, how="left")
    member = member.select("candidate_id", "vote", "score", "tokens", "text", "finish_reason")
    for side in _SIDES:
        named = member.select("candidate_id", pl.exclude("candidate_id").name.prefix(f"{side}_"))
        rows = rows.join(named, on=["candidate_id", f"{side}_vote"], how="left")
    rows = rows.join(earlier, on=["prompt_id", *_TEXTS], how="left")
    rows = rows.with_columns(pl.lit(0, pl.Int64).alias("pair"), pl.col("chosen_score").floor().alias("class"))
    return _explain(rows, _judge_reasons(settings))


def _actor_reasons(settings: PairsSection) -> list[Reason]:
    """In the order in which they are tried."""
    scores = ("chosen_score", "rejected_score")
    margin = pl.col("chosen_score") - pl.col("rejected_score")
    min_margin, few = settings.min_margin, (pl.col("scored") < 2) | (pl.col("winners") < 1)
    unscored = pl.format("{} of {} ended candidates have a score", "winners", "ended")
    lost = pl.col("ended") - pl.col("unanswered") < 1, pl.col("usable") - pl.col("unanswered") < 2
    least = -math.inf if settings.min_chosen_score is None else settings.min_chosen_score
    ties = {"drop": "all {} scores are {}", "rejected": "none of {} scores is below the best that ended, {}"}
    return [
        ("no_candidate", pl.col("sampled") < 2, pl.format("{} candidates", "sampled")),
        (
            "failed",
            pl.col("sampled") - pl.col("failed") < 2,
            pl.format("{} of {} candidates failed", "failed", "sampled"),
        ),
        (
            "truncated",
            (pl.col("usable") < 2) | (pl.col("ended") < 1),
            pl.format("{} of {} candidates ended by themselves", "ended", "sampled"),
        ),
        (
            "thoughts",
            (pl.col("unanswered") > 0) & pl.any_horizontal(lost),
            pl.format("{} of {} ended candidates are thoughts without an answer", "unanswered", "ended"),
        ),
        ("not_judged", pl.col("judged") < 2, pl.format("{} of {} ended candidates were judged", "judged", "usable")),
        (
            "shortened",
            few & (pl.col("shortened") > 0),
            pl.format("{}, {} were judged only in part", unscored, "shortened"),
        ),
        ("unparsed", few, unscored),
        ("identical", pl.col("texts") < 2, pl.format("all {} scored candidates have the same text", "scored")),
        ("tie", pl.col("spread") <= SCORE_TOLERANCE, pl.format(ties[settings.truncated], "scored", "best")),
        (
            "margin",
            margin <= min_margin + SCORE_TOLERANCE,
            pl.format(f"scores {{}} and {{}}, min_margin {min_margin:g}", *scores),
        ),
        (
            "low_score",
            pl.col("chosen_score") < least - SCORE_TOLERANCE,
            pl.format(f"chosen has the score {{}}, min_chosen_score {settings.min_chosen_score}", "chosen_score"),
        ),
        _overlong(settings.max_chosen_tokens),
        *_length_ratios(settings),
        _REPEATED,
    ]


def _length_ratios(settings: PairsSection) -> list[Reason]:
    lengths = ("chosen_tokens", "rejected_tokens")
    chosen, rejected = (pl.col(name) for name in lengths)
    most, least = settings.max_length_ratio, settings.min_length_ratio
    told = "chosen has {} tokens, rejected {}: at "
    return [
        ("length_ratio", _exceeds(chosen, most, rejected), pl.format(f"{told}most {most} times", *lengths)),
        ("length_ratio", chosen < (least or 0.0) * rejected, pl.format(f"{told}least {least} times", *lengths)),
    ]


def _judge_reasons(settings: PairsSection) -> list[Reason]:
    """In the order in which they are tried."""
    ends = ("chosen_finish_reason", "rejected_finish_reason")
    same_score = pl.col("chosen_score") == pl.col("rejected_score")
    return [
        ("not_compared", pl.col("candidate_id").is_null(), pl.lit("no candidate with compared judgements")),
        (
            "alike",
            (pl.col("battles") == 0) & (pl.col("alike") > 0),
            pl.lit("the judgements that were to be compared differ in their scores alone"),
        ),
        ("unparsed", pl.col("battles") == 0, pl.lit("no verdict parsed")),
        ("tie", pl.col("gap") <= RATING_TOLERANCE, pl.lit("all judgements have the same rating")),
        ("truncated", pl.any_horizontal(pl.col(ends) != "stop"), pl.format("chosen {}, rejected {}", *ends)),
        _SAME_TEXT,
        ("same_score", same_score & (not settings.same_score_judgements), pl.format("both score {}", "chosen_score")),
        _overlong(settings.max_chosen_judgement_tokens),
        _REPEATED,
    ]


def _overlong(schedule: Schedule[int] | None) -> Reason:
    limit = None if schedule is None else resolved(schedule)
    detail = pl.format(f"chosen has {{}} tokens, at most {limit}", "chosen_tokens")
    return "overlong", _exceeds(pl.col("chosen_tokens"), limit, pl.lit(1)), detail


def _exceeds(length: pl.Expr, limit: float | None, unit: pl.Expr) -> pl.Expr:
    return pl.lit(False) if limit is None else length > limit * unit


def _explain(rows: pl.DataFrame, reasons: list[Reason]) -> pl.DataFrame:
    """`rows` with the first reason that holds, and its detail."""
    return rows.with_columns(
        pl.coalesce(pl.when(holds).then(pl.lit(name)) for name, holds, _ in reasons).alias("reason"),
        pl.coalesce(pl.when(holds).then(detail) for _, holds, detail in reasons).alias("detail"),
    )


def _limited(outcomes: pl.DataFrame, limit: int | None) -> pl.DataFrame:
    """Outcomes in which each prompt keeps its first `limit` pairs; the others have the reason `surplus`."""
    if limit is None:
        return outcomes
    fit = pl.col("reason").is_null()
    before = fit.cast(pl.Int64).cum_sum().over("prompt_id", order_by="pair")
    over = fit & (before > limit)
    detail = f"the prompt has {limit} pairs before this one (max_pairs_per_prompt)"
    return outcomes.with_columns(
        pl.when(over).then(pl.lit("surplus")).otherwise("reason").alias("reason"),
        pl.when(over).then(pl.lit(detail)).otherwise("detail").alias("detail"),
    )
