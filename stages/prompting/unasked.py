"""Completions in place of those of requests that nobody is asked for."""

import polars as pl


def unasked(requests: pl.DataFrame, reason: str, why: str) -> pl.DataFrame:
    """Requests with empty completions, whose finish reason is `reason` and whose error says `why`."""
    return requests.with_columns(
        text=pl.lit(""),
        token_ids=pl.lit([], pl.List(pl.Int32)),
        tokens=pl.lit(0, pl.Int64),
        finish_reason=pl.lit(reason),
        logprob=pl.lit(None, pl.Float64),
        error=pl.lit(f"not asked: {why}"),
    )
