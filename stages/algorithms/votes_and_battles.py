"""Raw generations to parsed rows: judgements become votes, verdicts become battles; and judgements as the
meta-judge sees them."""

from collections.abc import Callable

import polars as pl

from stages.algorithms.parsing import LENIENT, parse_score, parse_winner, redact
from stages.algorithms.plain_ends import SCORE_END, WINNER_END, plain_ends
from stages.algorithms.plain_text import own_turn, without_thoughts
from stages.config import ScoreSection
from stages.tables import JUDGEMENTS, VERDICTS

OF_JUDGEMENTS = (*JUDGEMENTS.key, "judge", "text", "finish_reason", "tokens", "logprob")
"""The columns of table `judgements` that `parse_votes` looks at."""
OF_VERDICTS = (*VERDICTS.key, "text", "finish_reason")
"""The columns of table `verdicts` that `parse_battles` looks at."""
_SCORE = pl.Schema({"score": pl.Float64(), "start": pl.Int64(), "end": pl.Int64(), "parse_status": pl.String()})
_WINNER = pl.Schema({"winner": pl.String(), "parse_status": pl.String()})


def parse_votes(judgements: pl.DataFrame, settings: ScoreSection) -> pl.DataFrame:
    """Rows of table `votes` from rows of table `judgements` (OF_JUDGEMENTS)."""
    pattern, low, high = settings.pattern, settings.low, settings.high

    def search(text: str, reason: str) -> tuple[float | None, int | None, int | None, str]:
        status, value, span = parse_score(text, reason, pattern, low, high)
        return value, *(span or (None, None)), status

    value, top = pl.col("value").cast(pl.Float64), pl.col("top").cast(pl.Float64)
    good = value.is_between(low, high) & (top.is_null() | (top == high))
    plain = pl.struct(
        pl.when(good).then(value).alias("score"),
        "start",
        "end",
        pl.when(good).then(pl.lit("ok")).otherwise(pl.lit("out_of_range")).alias("parse_status"),
    )
    votes = _read(judgements, plain_ends(judgements["text"], SCORE_END), pattern, plain, search, _SCORE)
    verdict = pl.col("text").str.slice(pl.col("start"), pl.col("end") - pl.col("start"))
    stated = pl.col("start").is_not_null()
    return votes.select(
        *JUDGEMENTS.key,
        "judge",
        "finish_reason",
        "tokens",
        "logprob",
        "score",
        pl.when(stated).then(pl.concat_list("start", "end")).alias("span"),
        pl.when(stated).then(verdict).alias("verdict"),
        "parse_status",
    )


def parse_battles(verdicts: pl.DataFrame, pattern: str) -> pl.DataFrame:
    """Rows of table `battles` from rows of table `verdicts` (OF_VERDICTS)."""
    return parse_winners(verdicts, pattern).select(*VERDICTS.key, "winner", "parse_status")


def parse_winners(verdicts: pl.DataFrame, pattern: str) -> pl.DataFrame:
    """Rows (with `text`, `finish_reason`) with their `winner`, `a`, `b` or null, and their `parse_status`."""

    def search(text: str, reason: str) -> tuple[str | None, str]:
        status, value = parse_winner(text, reason, pattern)
        return value, status

    plain = pl.struct(pl.col("value").str.to_lowercase().alias("winner"), pl.lit("ok").alias("parse_status"))
    return _read(verdicts, plain_ends(verdicts["text"], WINNER_END), pattern, plain, search, _WINNER)


def _read(
    rows: pl.DataFrame,
    ends: pl.DataFrame,
    pattern: str,
    plain: pl.Expr,
    search: Callable[[str, str], tuple[object, ...]],
    schema: pl.Schema,
) -> pl.DataFrame:
    """Rows (with `text`, `finish_reason`) with what their texts state (`schema`): where the lenient grammar meets a
    plain end (`ends`, row by row), by expression `plain` of it; by `search` from every other text."""
    read = (ends["value"].is_not_null() & (rows["finish_reason"] == "stop")) & (pattern == LENIENT)
    others = rows.filter(~read).select("text", "finish_reason")
    found = pl.DataFrame([search(*row) for row in others.iter_rows()], schema=schema, orient="row")
    stated = ends.filter(read).select(plain.alias("stated")).unnest("stated").match_to_schema(schema)
    place = pl.concat([read.arg_true(), (~read).arg_true()])
    return rows.hstack(pl.concat([stated, found])[place.arg_sort()])


def shown_to_meta_judge(judgements: pl.DataFrame, pattern: str | None) -> pl.DataFrame:
    """`candidate_id`, `vote`, `text` of judgements (these columns) without their thoughts; with a `pattern` of scores,
    without these as well."""
    texts = [
        own_turn(without_thoughts(text, blank="")).strip() if pattern is None else redact(text, pattern)
        for text in judgements["text"]
    ]
    return judgements.select("candidate_id", "vote", pl.Series("text", texts, dtype=pl.String))
