"""Whether a judge still tells responses apart: how many of its scores are at the top of the scale."""

import polars as pl


def top_from(maximum: float, minimum: float = 0.0) -> float:
    """The least score that counts as a top score: the last tenth of the scale begins there.

    A judge that collapses does not say the maximum alone, but 4.75 or 4.9, too (Meta-Rewarding, section 5).
    """
    return maximum - (maximum - minimum) / 10


def top_share(scores: pl.Series, maximum: float, minimum: float = 0.0) -> float | None:
    """Share of `scores` [n] that are top scores on a scale from `minimum` to `maximum`; those that are null do not
    count, and None is the share of none."""
    given = scores.drop_nulls()
    return float((given >= top_from(maximum, minimum)).mean()) if len(given) else None  # type: ignore[arg-type]
