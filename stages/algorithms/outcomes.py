"""What becomes of each prompt: an actor pair and a judge pair, or for each the first reason why there is none.

Both functions give one row per prompt with prompt_id, chosen_* and rejected_* (score, tokens, text, token_ids and the
member's key), `reason` (null: a pair), `detail` (the numbers behind it), and what the mix needs: `class` and `draw`.
"""

import polars as pl

from stages.algorithms.draws import draws
from stages.algorithms.selection import RATING_TOLERANCE, SCORE_TOLERANCE, actor_members, judge_members
from stages.config import PairsSection, Schedule, at

Reason = tuple[str, pl.Expr, pl.Expr]
"""Name, condition, detail."""

_KEYS = ["prompt_id", "candidate_id"]
_SIDES = ("chosen", "rejected")
_SAME_TEXT: Reason = (
    "identical",
    pl.col("chosen_text") == pl.col("rejected_text"),
    pl.lit("chosen and rejected have the same text"),
)


def actor_outcomes(
    prompts: pl.DataFrame,
    candidates: pl.DataFrame,
    scores: pl.DataFrame,
    settings: PairsSection,
    seed: int,
    iteration: int,
) -> pl.DataFrame:
    """Outcomes of the pairs of responses; only candidates that ended by themselves and have a score take part.

    `prompts` (prompt_id), `candidates` (keys, text, token_ids, finish_reason) and `scores` are rows of their tables.
    The members' keys are chosen_candidate_id and rejected_candidate_id.
    """
    ended, scored = pl.col("finish_reason") == "stop", pl.col("score").is_not_null()
    known = candidates.join(scores.select(*_KEYS, "score", "variance", "valid_votes"), on=_KEYS, how="left")
    usable = _with_tokens(known.filter(ended & scored))
    usable = usable.with_columns(draws(usable, ["candidate_id"], seed, iteration, "pairs.candidate"))
    tally = known.group_by("prompt_id").agg(sampled=pl.len(), ended=ended.sum(), scored=(ended & scored).sum())
    spread = usable.group_by("prompt_id").agg(spread=pl.col("score").max() - pl.col("score").min())
    members = actor_members(usable, at(settings.length_control, iteration))
    rows = prompts.select("prompt_id")
    for part in (tally, spread, members):
        rows = rows.join(part, on="prompt_id", how="left")
    member = usable.select("candidate_id", "score", "tokens", "text", "token_ids")
    for side in _SIDES:
        rows = rows.join(member.select(pl.all().name.prefix(f"{side}_")), on=f"{side}_candidate_id", how="left")
    rows = rows.with_columns(pl.col("sampled").fill_null(0), pl.lit(0.0).alias("class"))
    rows = rows.with_columns(draws(rows, ["prompt_id"], seed, iteration, "pairs.actor"))
    return _explain(rows, _actor_reasons(settings))


def judge_outcomes(
    prompts: pl.DataFrame,
    ratings: pl.DataFrame,
    votes: pl.DataFrame,
    judgements: pl.DataFrame,
    settings: PairsSection,
    seed: int,
    iteration: int,
) -> pl.DataFrame:
    """Outcomes of the pairs of judgements of each prompt's compared candidate, which is `candidate_id`.

    `ratings`, `votes` (keys, score) and `judgements` (keys, text, token_ids, finish_reason) are rows of their tables;
    votes and judgements that are not rated may be left out. The members' keys are chosen_vote and rejected_vote. The
    classes are the whole points of the chosen judgement's score.
    """
    drawn = ratings.with_columns(draws(ratings, ["candidate_id", "vote"], seed, iteration, "pairs.judgement"))
    rows = prompts.select("prompt_id").join(judge_members(drawn), on="prompt_id", how="left")
    member = _with_tokens(judgements).join(votes.select(*_KEYS, "vote", "score"), on=[*_KEYS, "vote"], how="left")
    for side in _SIDES:
        named = member.select("candidate_id", pl.exclude(_KEYS).name.prefix(f"{side}_"))
        rows = rows.join(named, on=["candidate_id", f"{side}_vote"], how="left")
    rows = rows.with_columns(
        pl.col("chosen_score").floor().alias("class"), draws(rows, ["prompt_id"], seed, iteration, "pairs.judge")
    )
    return _explain(rows, _judge_reasons(settings))


def _actor_reasons(settings: PairsSection) -> list[Reason]:
    """In the order in which they are tried."""
    scores = ("chosen_score", "rejected_score")
    margin = pl.col("chosen_score") - pl.col("rejected_score")
    min_margin = settings.min_margin
    return [
        ("no_candidate", pl.col("sampled") < 2, pl.format("{} candidates", "sampled")),
        ("truncated", pl.col("ended") < 2, pl.format("{} of {} candidates ended by themselves", "ended", "sampled")),
        ("unparsed", pl.col("scored") < 2, pl.format("{} of {} ended candidates have a score", "scored", "ended")),
        ("tie", pl.col("spread") <= SCORE_TOLERANCE, pl.format("all {} scores are {}", "scored", "chosen_score")),
        _SAME_TEXT,
        (
            "margin",
            margin <= min_margin + SCORE_TOLERANCE,
            pl.format(f"scores {{}} and {{}}, min_margin {min_margin:g}", *scores),
        ),
        _overlong(settings.max_chosen_tokens),
    ]


def _judge_reasons(settings: PairsSection) -> list[Reason]:
    """In the order in which they are tried."""
    ends = ("chosen_finish_reason", "rejected_finish_reason")
    same_score = pl.col("chosen_score") == pl.col("rejected_score")
    return [
        ("not_compared", pl.col("candidate_id").is_null(), pl.lit("no candidate with compared judgements")),
        ("unparsed", pl.col("battles") == 0, pl.lit("no verdict parsed")),
        ("tie", pl.col("gap") <= RATING_TOLERANCE, pl.lit("all judgements have the same rating")),
        ("truncated", pl.any_horizontal(pl.col(ends) != "stop"), pl.format("chosen {}, rejected {}", *ends)),
        _SAME_TEXT,
        ("same_score", same_score & (not settings.same_score_judgements), pl.format("both score {}", "chosen_score")),
        _overlong(settings.max_chosen_judgement_tokens),
    ]


def _overlong(limit: Schedule[int] | None) -> Reason:
    assert not isinstance(limit, list), "settings are those of one iteration"
    too_long = pl.lit(False) if limit is None else pl.col("chosen_tokens") > limit
    return "overlong", too_long, pl.format(f"chosen has {{}} tokens, at most {limit}", "chosen_tokens")


def _explain(rows: pl.DataFrame, reasons: list[Reason]) -> pl.DataFrame:
    """`rows` with the first reason that holds, and its detail."""
    return rows.with_columns(
        pl.coalesce(pl.when(holds).then(pl.lit(name)) for name, holds, _ in reasons).alias("reason"),
        pl.coalesce(pl.when(holds).then(detail) for _, holds, detail in reasons).alias("detail"),
    )


def _with_tokens(completions: pl.DataFrame) -> pl.DataFrame:
    return completions.with_columns(pl.col("token_ids").list.len().cast(pl.Int64).alias("tokens"))
