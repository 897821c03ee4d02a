"""Numbers that drift when a model judges itself and its judge collapses: tables of the iterations in, signs out."""

import polars as pl

from stages.algorithms.ratings import flip_rate, higher_score_wins, slot_weights
from stages.algorithms.statistics import Bounds
from stages.algorithms.top_scores import top_share


def collapse_signs(
    votes: pl.DataFrame, scores: pl.DataFrame, results: pl.DataFrame, battles: pl.DataFrame, scale: Bounds
) -> pl.DataFrame:
    """`iteration`, `sign`, `value`: numbers that drift when self-judging collapses; no row where nothing was measured.

    Rows of tables `votes`, `scores` and `battles`, each with `iteration`; `results` has `iteration`, `kind`, `outcome`.
    top score: share of parsed votes in the last tenth of the judge's `scale`; ties: share of prompts without an actor
    pair because all scores are equal; mean score and judge variance: mean over the candidates; first slot wins: share
    of verdicts (0.5 is unbiased); order flips: share of compared judgements whose winner changes with the order; higher
    score wins: share of verdicts on judgements of unequal score.
    """
    tie = pl.col("outcome") == "tie"
    parts = [
        _top_shares(votes, scale).with_columns(sign=pl.lit("top score")),
        _mean(results.filter(pl.col("kind") == "actor"), tie).with_columns(sign=pl.lit("ties")),
        _mean(scores, pl.col("score")).with_columns(sign=pl.lit("mean score")),
        _mean(scores, pl.col("variance")).with_columns(sign=pl.lit("judge variance")),
        _meta_judge_signs(battles, votes),
    ]
    long = pl.concat([part.select("iteration", "sign", "value") for part in parts])
    return long.filter(pl.col("value").is_not_null()).sort("iteration", maintain_order=True)


def _mean(rows: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    return rows.group_by("iteration").agg(value=value.mean())


def _top_shares(votes: pl.DataFrame, scale: Bounds) -> pl.DataFrame:
    parts = votes.group_by("iteration")
    rows = [(iteration, top_share(part["score"], scale.high, scale.low)) for (iteration,), part in parts]
    return pl.DataFrame(rows, schema={"iteration": pl.Int64, "value": pl.Float64}, orient="row")


def _meta_judge_signs(battles: pl.DataFrame, votes: pl.DataFrame) -> pl.DataFrame:
    rows: list[tuple[int, str, float | None]] = []
    for (iteration,), part in battles.group_by("iteration"):
        if part["winner"].count():
            rows.append((int(iteration), "first slot wins", slot_weights(part)[1]))
        rows.append((int(iteration), "order flips", flip_rate(part)))
        given = votes.filter(pl.col("iteration") == iteration)
        rows.append((int(iteration), "higher score wins", higher_score_wins(part, given)))
    schema = {"iteration": pl.Int64, "sign": pl.String, "value": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")
