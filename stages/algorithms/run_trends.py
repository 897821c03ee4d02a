"""What changes from iteration to iteration beside the scores: lengths, gaps, repetition, agreement.

Frames are rows of the iterations' tables with a column `iteration`; each trend is a frame `iteration`, `value`, with no
row for an iteration that says nothing about it.
"""

import polars as pl

from stages.tables import SCORES, VOTES

SOUND = pl.col("finish_reason") != "error"


def run_trends(
    candidates: pl.DataFrame,
    votes: pl.DataFrame,
    scores: pl.DataFrame,
    battles: pl.DataFrame,
    pairs: pl.DataFrame,
    metrics: pl.DataFrame,
    batch_sizes: pl.DataFrame,
) -> pl.DataFrame:
    """`iteration`, `trend` (the name of its function), `value` of all trends below."""
    parts = {
        "score_against_length": score_against_length(candidates, scores),
        "length_gap": length_gap(pairs),
        "score_gap": score_gap(pairs),
        "distinct_share": distinct_share(candidates),
        "longer_wins": longer_wins(battles, votes),
        "implicit_agreement": implicit_agreement(metrics, batch_sizes),
        "held_out_agreement": held_out_agreement(metrics),
    }
    return pl.concat([part.select("iteration", "value", trend=pl.lit(name)) for name, part in parts.items()])


def score_against_length(candidates: pl.DataFrame, scores: pl.DataFrame) -> pl.DataFrame:
    """Spearman's correlation of score and length in tokens within a prompt, mean over the prompts where both differ.

    In [-1, 1]; above 0 the judge gives more to longer answers. `candidates` needs keys, `tokens`, `finish_reason`.
    """
    keys = ["iteration", *SCORES.key]
    known = candidates.filter(SOUND).join(scores.drop_nulls("score").select(*keys, "score"), on=keys, validate="1:1")
    ranks = [pl.col(name).rank().over("iteration", "prompt_id") for name in ("score", "tokens")]
    of_prompts = (
        known.filter(pl.col(name).n_unique().over("iteration", "prompt_id") > 1 for name in ("score", "tokens"))
        .with_columns(ranks)
        .group_by("iteration", "prompt_id")
        .agg(correlation=pl.corr("score", "tokens"))
    )
    return _mean(of_prompts, pl.col("correlation"))


def length_gap(pairs: pl.DataFrame) -> pl.DataFrame:
    """Mean of `chosen_tokens - rejected_tokens` of the actor pairs; above 0 the pairs teach length."""
    chosen, rejected = (pl.col(f"{side}_tokens").cast(pl.Int64) for side in ("chosen", "rejected"))
    return _mean(_actor(pairs), chosen - rejected)


def score_gap(pairs: pl.DataFrame) -> pl.DataFrame:
    """Mean of `score_chosen - score_rejected` of the actor pairs, in points of the judge's scale; towards 0 the judge
    sees no difference any more."""
    return _mean(_actor(pairs), pl.col("score_chosen") - pl.col("score_rejected"))


def distinct_share(candidates: pl.DataFrame) -> pl.DataFrame:
    """Share of a prompt's candidates that say something that none before them said (`twin_of`: the same text in NFC,
    trimmed), mean over the prompts. In (0, 1]; candidates that failed do not count."""
    of_prompts = (
        candidates.filter(SOUND).group_by("iteration", "prompt_id").agg(share=pl.col("twin_of").is_null().mean())
    )
    return _mean(of_prompts, pl.col("share"))


def longer_wins(battles: pl.DataFrame, votes: pl.DataFrame) -> pl.DataFrame:
    """Share of the decided verdicts that the longer of the two judgements won, in tokens; equal lengths are left out.
    In [0, 1]; 0.5 is no preference."""
    decided = battles.filter(pl.col("winner").is_not_null())
    for slot in ("a", "b"):
        names = {"vote": f"vote_{slot}", "tokens": f"tokens_{slot}"}
        side = votes.select("iteration", *VOTES.key, "tokens").rename(names)
        decided = decided.join(side, on=["iteration", *SCORES.key, f"vote_{slot}"], validate="m:1")
    unequal = decided.filter(pl.col("tokens_a") != pl.col("tokens_b"))
    return _mean(unequal, (pl.col("winner") == "a") == (pl.col("tokens_a") > pl.col("tokens_b")))


def implicit_agreement(metrics: pl.DataFrame, batch_sizes: pl.DataFrame) -> pl.DataFrame:
    """Share of the training pairs in whose order the model's implicit reward agrees with the judge's choice, over the
    last pass: the mean of metric `accuracy` over the last steps that see as many pairs as there are.

    `metrics` are rows of table `train_metrics`, `batch_sizes` has `iteration` and `batch_size`. In [0, 1].
    """
    examples = metrics.filter(metric="examples").select("iteration", examples="value")
    steps = metrics.filter(metric="accuracy").join(examples.join(batch_sizes, on="iteration"), on="iteration")
    last_pass = (pl.col("examples") / pl.col("batch_size")).ceil()
    left = pl.col("step").max().over("iteration") - pl.col("step")
    return _mean(steps.filter(left < last_pass), pl.col("value"))


def held_out_agreement(metrics: pl.DataFrame) -> pl.DataFrame:
    """The same share of the held-out pairs: metric `validation/accuracy`, measured last. In [0, 1]."""
    return _mean(metrics.filter(metric="validation/accuracy"), pl.col("value").sort_by("step").last())


def _actor(pairs: pl.DataFrame) -> pl.DataFrame:
    return pairs.filter(pl.col("kind") == "actor")


def _mean(rows: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    means = rows.group_by("iteration").agg(value=value.mean().cast(pl.Float64))
    return means.drop_nulls().filter(pl.col("value").is_not_nan()).sort("iteration")
