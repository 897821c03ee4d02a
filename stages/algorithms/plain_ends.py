"""Verdicts that end their text plainly, read for whole columns at once.

Most judgements simply end in `Score: 4` or, as the papers' templates show it, `Score: <4>`, and many million of them
are read. Such a label ends the text, so that no statement can come after it, and none has a higher authority: where
nothing before it can make it part of something else, it is what `parsing` would find, in a twentieth of the time.
"""

import polars as pl

# ASCII alone (`-u`): `ſ` is no `s` to the search.
_END = (
    r"(?i-u)(?:\n|[.!?;] )(?:\*\*)?(?P<statement>{label}(?:\*\*)?:(?:\*\*)? ?{value})"
    r"(?P<rest>{angle}(?:\*\*)?\.?\s{{0,3}})$"
)
_POINTS = r"[0-9](?:\.[0-9]{1,3})?"
SCORE_END = _END.format(
    label="(?:final |total )?score",
    value=rf"(?:<(?P<angled>{_POINTS})|(?P<value>{_POINTS})(?:/(?P<top>[0-9]))?)",
    angle=">?",
)
WINNER_END = _END.format(label="winner", value="judge?ment (?P<value>[AB])", angle="")
LONGEST = 60
"""Characters of the longest such end."""
_SOMETHING_ELSE = r"[<\[]|```|User|Human|###"
"""What may begin a thought, a quotation, a turn that the model invents."""


def plain_ends(texts: pl.Series, pattern: str) -> pl.DataFrame:
    """The plain verdict at the end of each text, by SCORE_END or WINNER_END: `value`, of scores the `top` of their
    scale, and `start` and `end` of the statement in characters; all null where a text does not end so."""
    found = pl.col("text").str.tail(LONGEST).str.extract_groups(pattern)
    ends = texts.to_frame("text").select("text", found.alias("found")).unnest("found")
    end = pl.col("text").str.len_chars().cast(pl.Int64) - pl.col("rest").str.len_chars()
    ends = ends.with_columns(start=end - pl.col("statement").str.len_chars(), end=end)
    before = pl.col("text").str.head(pl.col("start"))
    ends = ends.with_columns(plain=pl.col("statement").is_not_null() & ~before.str.contains(_SOMETHING_ELSE))
    if "angled" in ends.columns:
        closed = pl.col("rest").str.starts_with(">") == pl.col("angled").is_not_null()
        ends = ends.with_columns(value=pl.coalesce("value", "angled"), plain=pl.col("plain") & closed)
    return ends.select(pl.when("plain").then(pl.exclude("text", "angled", "rest", "statement", "plain")))
