"""Raw generations to parsed rows: judgements become votes, verdicts become battles; and judgements as the
meta-judge sees them."""

import polars as pl

from stages.algorithms.parsing import parse_score, parse_winner, redact
from stages.algorithms.plain_text import own_turn, without_thoughts
from stages.config import ScoreSection
from stages.tables import JUDGEMENTS, VERDICTS

OF_JUDGEMENTS = (*JUDGEMENTS.key, "text", "finish_reason", "tokens", "logprob")
"""The columns of table `judgements` that `parse_votes` looks at."""
OF_VERDICTS = (*VERDICTS.key, "text", "finish_reason")
"""The columns of table `verdicts` that `parse_battles` looks at."""


def parse_votes(judgements: pl.DataFrame, settings: ScoreSection) -> pl.DataFrame:
    """Rows of table `votes` from rows of table `judgements` (OF_JUDGEMENTS)."""
    texts, reasons = judgements["text"].to_list(), judgements["finish_reason"].to_list()
    pattern, low, high = settings.pattern, settings.low, settings.high
    parsed = [parse_score(text, reason, pattern, low, high) for text, reason in zip(texts, reasons, strict=True)]
    spans = [vote.span for vote in parsed]
    verdicts = [None if span is None else text[slice(*span)] for text, span in zip(texts, spans, strict=True)]
    start, end = (pl.Series([None if span is None else span[i] for span in spans], dtype=pl.Int64) for i in (0, 1))
    return judgements.select(
        *JUDGEMENTS.key,
        "finish_reason",
        "tokens",
        "logprob",
        pl.Series("score", [vote.value for vote in parsed], dtype=pl.Float64),
        pl.when(start.is_not_null()).then(pl.concat_list(start, end)).alias("span"),
        pl.Series("verdict", verdicts, dtype=pl.String),
        pl.Series("parse_status", [vote.status for vote in parsed], dtype=pl.String),
    )


def parse_battles(verdicts: pl.DataFrame, pattern: str) -> pl.DataFrame:
    """Rows of table `battles` from rows of table `verdicts` (OF_VERDICTS)."""
    texts, reasons = verdicts["text"].to_list(), verdicts["finish_reason"].to_list()
    parsed = [parse_winner(text, reason, pattern) for text, reason in zip(texts, reasons, strict=True)]
    return verdicts.select(
        *VERDICTS.key,
        pl.Series("winner", [verdict.value for verdict in parsed], dtype=pl.String),
        pl.Series("parse_status", [verdict.status for verdict in parsed], dtype=pl.String),
    )


def shown_to_meta_judge(judgements: pl.DataFrame, pattern: str | None) -> pl.DataFrame:
    """`candidate_id`, `vote`, `text` of judgements (these columns) without their thoughts; with a `pattern` of scores,
    without these as well."""
    texts = [
        own_turn(without_thoughts(text, blank="")).strip() if pattern is None else redact(text, pattern)
        for text in judgements["text"]
    ]
    return judgements.select("candidate_id", "vote", pl.Series("text", texts, dtype=pl.String))
