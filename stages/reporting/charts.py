"""The report's charts: data frames in, figures out.

Frames of the iterations carry a column `iteration`, frames of the evaluation a column `model`. Charts of what was not
measured are left out.
"""

from typing import NamedTuple

import polars as pl

from stages.reporting import figures
from stages.reporting.figures import Figure

EFT = "Evaluation fine-tuning (EFT)"


class Chart(NamedTuple):
    """A figure, with the section it belongs to, its title and a sentence on how to read it."""

    section: str
    title: str
    note: str
    figure: Figure


def evaluation_charts(summary: pl.DataFrame, evaluations: pl.DataFrame, drawn: str) -> list[Chart]:
    """Quality by model, and prompts whose instructions were followed, from rows of tables `summary` and `evaluations`;
    `drawn` says how the answers to a prompt were sampled."""
    section = "Does it get better?"
    quality = {"quality": "sampled", "quality_greedy": "greedy"}
    followed = {"prompt_strict": "sampled", "prompt_strict_greedy": "greedy"}
    sampled = evaluations.filter(pl.col("decoding") == "sample", pl.col("quality").is_not_null())
    note = f"Held-out prompts. Sampled is the mean of {drawn}. The bar is the 95 % interval."
    strict = f"Share of the responses that follow all instructions of their prompt, strictly. {note}"
    spread = f"Share of the sampled responses at each quality; of each held-out prompt {drawn}."
    return _drawn(
        Chart(section, "Quality by model", note, figures.by_model(summary, quality)),
        Chart(section, "Instructions followed by model", strict, figures.by_model(summary, followed, percent=True)),
        Chart(section, "True quality of the responses", spread, figures.histogram(sampled, "quality", "model")),
    )


def match_charts(win_rates: pl.DataFrame) -> list[Chart]:
    """How each model does against model 0, from rows of table `win_rates`."""
    note = "Sampled responses against model 0's, by one judge in both orders. The bar is the 95 % interval."
    names = {"win_rate": "wins", "win_rate_length_controlled": "at equal length"}
    figure = figures.by_model(win_rates.filter(other="0"), names, percent=True)
    return _drawn(Chart("Does it get better?", "Wins over model 0", note, figure))


def judge_charts(summary: pl.DataFrame, judge: pl.DataFrame, drawn: str) -> list[Chart]:
    """Each model as judge of the test responses, from rows of tables `summary` and `judge_evaluations`; `drawn` says
    how the votes on a response were sampled."""
    judging = {
        "judge_accuracy": "pairs in the right order",
        "judge_exact_order": "whole order right",
        "judge_exact": "first vote exactly right",
    }
    correlation = {"judge_spearman": "Spearman", "judge_kendall": "Kendall τ-b"}
    known = judge.filter(pl.col("score").is_not_null(), pl.col("quality").is_not_null())
    means = known.group_by("model", "quality").agg(pl.col("score").mean())
    return _drawn(
        Chart(
            "Judge",
            "Judge accuracy by model",
            f"The model as judge of the test responses, by {drawn} on each. The bar is the 95 % interval.",
            figures.by_model(summary, judging, percent=True),
        ),
        Chart(
            "Judge",
            "Rank correlation by model",
            "Between the scores of a prompt's test responses and their ranks, mean over the prompts.",
            figures.by_model(summary, correlation),
        ),
        Chart(
            "Judge",
            "Judge score against true quality",
            "Mean score that the model gives to test responses of each true quality.",
            figures.lines(means, "quality", "score", "model"),
        ),
        Chart(
            "Judge",
            "Mean score given by the judge",
            "Over the test responses, which are the same for every model: a rise is inflation, not quality.",
            figures.by_model(summary, {"judge_score": "judge score"}),
        ),
    )


def eft_charts(scores: pl.DataFrame) -> list[Chart]:
    """What evaluation fine-tuning learned from: `score` and `judgements` (`all` or `kept`) of those that parsed."""
    spread = "Share of the judgements at each score; classes that are too full lose some."
    return _drawn(
        Chart(EFT, "Scores of the judgements", spread, figures.histogram(scores, "score", "judgements")),
    )


def creation_charts(results: pl.DataFrame) -> list[Chart]:
    """What became of the prompts that a model wrote: `results` has `iteration` and `outcome` of each."""
    note = "Each creation became a prompt (kept) or has one reason why not."
    figure = figures.stacked(results, "outcome", first="kept")
    return _drawn(Chart("Created prompts", "Creations by outcome", note, figure))


def score_charts(votes: pl.DataFrame, drawn: str) -> list[Chart]:
    """What the judge said, from rows of table `votes`; `drawn` says how those on a candidate were sampled."""
    section = "What the judge says"
    parsed = votes.filter(pl.col("score").is_not_null())
    scores = f"Share of the parsed votes at each score; on each candidate {drawn}."
    read = "Votes by parse status; only those that are ok have a score."
    return _drawn(
        Chart(section, "Scores", scores, figures.histogram(parsed, "score", "iteration")),
        Chart(section, "Could the votes be read?", read, figures.stacked(votes, "parse_status", first="ok")),
    )


def length_charts(summary: pl.DataFrame, pairs: pl.DataFrame, drawn: str) -> list[Chart]:
    """Length in tokens of held-out responses, sampled as `drawn` says, and of the members of the actor pairs.

    `pairs` are rows of table `pairs` with `chosen_tokens` and `rejected_tokens`, the lengths of its token lists.
    """
    names = {"chosen_tokens": "chosen", "rejected_tokens": "rejected"}
    means = pairs.filter(pl.col("kind") == "actor").group_by("iteration").agg(pl.col(list(names)).mean())
    long = means.rename(names).unpivot(index="iteration", variable_name="member", value_name="tokens")
    note = "Mean over the actor pairs. Chosen well above rejected teaches length: raise length control."
    length = figures.by_model(summary, {"tokens": "tokens"})
    held_out = f"Mean tokens of the sampled responses; of each held-out prompt {drawn}."
    return _drawn(
        Chart("Lengths", "Response length by model", held_out, length),
        Chart("Lengths", "Chosen and rejected responses", note, figures.by_iteration(long, "member", "tokens")),
    )


def outcomes(pairs: pl.DataFrame, ledger: pl.DataFrame) -> pl.DataFrame:
    """`iteration`, `prompt_id`, `kind`, `outcome` of every prompt and kind, once: `pair` if the prompt has one or more,
    else the reason why there is none; of several pairs that were considered, that of the widest margin."""
    keys = ["iteration", "prompt_id", "kind"]
    paired = pairs.select(*keys, outcome=pl.lit("pair"), pair=pl.lit(-1, pl.Int64))
    dropped = ledger.select(*keys, pl.col("reason").alias("outcome"), "pair")
    return pl.concat([paired, dropped]).sort(*keys, "pair").unique(keys, keep="first", maintain_order=True).drop("pair")


def drop_charts(results: pl.DataFrame, ledger: pl.DataFrame) -> list[Chart]:
    """What became of the prompts, from `outcomes`, and of all pairs that were considered, from table `pair_ledger`."""
    section = "What was dropped, and why"
    note = "Each prompt has a pair, or the reason why it has none; likewise for the pairs of judgements."
    every = "Prompts without a pair, and pairs that were considered and left out: a prompt may have several."
    prompts = figures.stacked(results, "outcome", first="pair", within="kind")
    charts = [Chart(section, "Prompts by outcome", note, prompts)]
    if ledger.height > results.filter(pl.col("outcome") != "pair").height:
        rows = figures.stacked(ledger, "reason", first="", within="kind")
        charts.append(Chart(section, "Rows of the ledger", every, rows))
    return _drawn(*charts)


def collapse_charts(signs: pl.DataFrame) -> list[Chart]:
    """The signs of `stages.algorithms.collapse` over the iterations."""
    section, apart = "Signs of collapse", ["mean score", "judge variance"]
    rest = signs.filter(~pl.col("sign").is_in(apart))
    shares = figures.by_iteration(rest, "sign", "value", percent=True, from_zero=True)
    note = (
        "Top score: votes in the last tenth of the scale. Ties: prompts with equal scores only. First slot wins: "
        "50 % is unbiased. Order flips: compared judgements whose winner changes with the order. Higher score wins: "
        "verdicts for the judgement with the higher score, which the meta-judge does not see."
    )
    notes = {
        "mean score": "Mean over the candidates; it tends towards the top of the scale when the judge inflates.",
        "judge variance": "Of the votes on a candidate, mean over the candidates; towards 0, more votes add nothing.",
    }
    drawn = [Chart(section, "Shares to watch", note, shares)]
    for name in apart:
        means = figures.by_iteration(signs.filter(sign=name), "sign", "value", from_zero=True)
        drawn.append(Chart(section, name.capitalize(), notes[name], means))
    return _drawn(*drawn)


def training_charts(metrics: pl.DataFrame) -> list[Chart]:
    """Training curves, one line per iteration, from rows of table `train_metrics`; dotted beside them the readings of
    held-out data, in iterations that have some."""
    section, names = "Training", set(metrics["metric"])
    charts = []
    for name, title, note in (
        ("loss", "Loss", "DPO starts at ln 2 = 0.693."),
        ("accuracy", "Preference accuracy", "Share of pairs whose implicit reward prefers the chosen member."),
        ("reward_margin", "Reward margin", "Implicit reward of chosen less rejected."),
    ):
        held_out = f"validation/{name}"
        note += " Over the optimizer steps." + (" Dotted: over all held-out pairs." if held_out in names else "")
        charts.append(Chart(section, title, note, figures.curves(metrics, {name: "", held_out: "held out"})))
    members = {"logprob_chosen": "chosen", "logprob_rejected": "rejected"}
    note = "Mean log-probability (nats) of the members; chosen should not fall for long."
    charts.append(Chart(section, "Log-probability of the members", note, figures.curves(metrics, members)))
    note = "Negative log-likelihood per token of a data set's own answers, which are not trained on."
    answers = figures.curves(metrics, {"validation/answer_loss": ""})
    return _drawn(*charts, Chart(section, "Loss on held-out answers", note, answers))


def _drawn(*charts: Chart) -> list[Chart]:
    return [chart for chart in charts if chart.figure.series]
