"""How often a model's answers win against others, by verdicts on both in both orders."""

import polars as pl

from stages.algorithms.length_control import length_controlled
from stages.algorithms.prompt_parts import Parts, Row, estimates
from stages.algorithms.statistics import SHARE, UNBOUNDED
from stages.tables import EVALUATIONS

SUFFIXES = {"sample": "", "greedy": "_greedy"}
"""What the metrics of a decoding end in."""
TIE = 0.5


def outcomes(comparisons: pl.DataFrame) -> pl.DataFrame:
    """One row for each two answers, from rows of table `comparisons`: its keys but for `first`, `win` and `difference`.

    `win` is 1 or 0 where both orders agree, 1/2 where they do not (a tie: the order decided) or where the answers are
    the same, null where the verdict of an order is missing. `difference` is that of the lengths, in characters.
    """
    won = (pl.col("winner") == "model").cast(pl.Float64)
    won = pl.when(pl.col("parse_status") == "alike").then(TIE).otherwise(won)
    return (
        comparisons.group_by(EVALUATIONS.key)
        .agg(
            win=pl.when(won.null_count() == 0).then(won.mean()),
            difference=(pl.col("characters") - pl.col("other_characters")).first(),
        )
        .sort(EVALUATIONS.key)
    )


def win_rates(comparisons: pl.DataFrame) -> list[Row]:
    """Rows of table `win_rates` without `model` and `other`, from rows of table `comparisons`, for each decoding.

    Prompts are the units. Answers without a verdict in both orders count as `unparsed` and nowhere else.
    """
    every = outcomes(comparisons)
    return [
        {**row, "metric": row["metric"] + suffix}
        for decoding, suffix in SUFFIXES.items()
        for row in _of_decoding(every.filter(decoding=decoding))
    ]


def _of_decoding(rows: pl.DataFrame) -> list[Row]:
    decided = rows.drop_nulls("win")
    found = estimates(_parts(prompt) for _, prompt in rows.group_by("prompt_id", maintain_order=True))
    if decided.is_empty():
        return found
    units = decided["prompt_id"].rank("dense").to_numpy() - 1
    controlled = length_controlled(decided["win"].to_numpy(), decided["difference"].to_numpy(), units)
    return [*found, *([{"metric": "win_rate_length_controlled", **controlled._asdict()}] if controlled else [])]


def _parts(prompt: pl.DataFrame) -> Parts:
    """What a prompt adds to the metrics."""
    wins = prompt["win"].drop_nulls()
    return {
        "win_rate": (float(wins.sum()), len(wins), SHARE),
        "tie_share": (float((wins == TIE).sum()), len(wins), SHARE),
        "unparsed": (float(prompt["win"].null_count()), prompt.height, SHARE),
        "longer_by": (float(prompt["difference"].sum()), prompt.height, UNBOUNDED),
    }
