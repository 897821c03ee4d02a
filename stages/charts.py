"""The report's charts: data frames in, plotly figures out.

Frames of the iterations carry a column `iteration`, frames of the evaluation a column `model`. Figures leave the
colours of text, grid and background to the page, which knows whether it is shown light or dark.
"""

from itertools import cycle
from typing import Any, NamedTuple

import plotly.graph_objects as go
import polars as pl

from stages.algorithms.ratings import flip_rate, slot_weights

PALETTE = ["#3d85c6", "#e08a2e", "#3a9d78", "#b565a7", "#cf5c55", "#b39b2c", "#5bb0c4", "#8d93a1"]
_MOST_BARS = 25


class Chart(NamedTuple):
    """A figure, with the section it belongs to, its title and a sentence on how to read it."""

    section: str
    title: str
    note: str
    figure: Any


def evaluation_charts(summary: pl.DataFrame, evaluations: pl.DataFrame, judge: pl.DataFrame) -> list[Chart]:
    """Headline numbers by model, and what lies behind them; charts whose numbers were not measured are left out.

    `summary`, `evaluations` and `judge` are rows of tables `summary`, `evaluations` and `judge_evaluations`.
    """
    section = "Does it get better?"
    quality = {"quality": "at temperature 1", "quality_greedy": "greedy"}
    judging = {"judge_accuracy": "pairs in the right order", "judge_exact": "first vote exactly right"}
    sampled = evaluations.filter(pl.col("decoding") == "sample", pl.col("quality").is_not_null())
    calibration = judge.filter(pl.col("score").is_not_null()).group_by("model", "quality").agg(pl.col("score").mean())
    interval = "The bar is the 95 % interval."
    charts = [
        Chart(section, "Quality by model", f"Held-out prompts. {interval}", _by_model(summary, quality)),
        Chart(
            section,
            "Judge accuracy by model",
            f"The model as judge of the test responses. {interval}",
            _by_model(summary, judging, tickformat=".0%"),
        ),
        Chart(
            section,
            "True quality of the responses",
            "Share of the responses at temperature 1 at each quality.",
            _histogram(sampled, "quality", "model"),
        ),
        Chart(
            section,
            "Judge score against true quality",
            "Mean score that the model gives to test responses of each true quality.",
            _lines(calibration, "quality", "score", "model"),
        ),
        Chart(
            section,
            "Mean score given by the judge",
            "Over the test responses, which are the same for every model: a rise is inflation, not quality.",
            _by_model(summary, {"judge_score": "judge score"}),
        ),
    ]
    return [chart for chart in charts if chart.figure.data]


def score_charts(votes: pl.DataFrame) -> list[Chart]:
    """What the judge said, from rows of table `votes`."""
    section = "What the judge says"
    parsed = votes.filter(pl.col("score").is_not_null())
    return [
        Chart(section, "Scores", "Share of the parsed votes at each score.", _histogram(parsed, "score", "iteration")),
        Chart(
            section,
            "Could the votes be read?",
            "Votes by parse status; only those that are ok have a score.",
            _stacked(votes, "parse_status", first="ok"),
        ),
    ]


def length_charts(summary: pl.DataFrame, pairs: pl.DataFrame) -> list[Chart]:
    """Length in tokens of held-out responses and of the members of the actor pairs.

    `pairs` are rows of table `pairs` with `chosen_tokens` and `rejected_tokens`, the lengths of its token lists.
    """
    names = {"chosen_tokens": "chosen", "rejected_tokens": "rejected"}
    means = pairs.filter(pl.col("kind") == "actor").group_by("iteration").agg(pl.col(list(names)).mean())
    long = means.rename(names).unpivot(index="iteration", variable_name="member", value_name="tokens")
    note = "Mean over the actor pairs. Chosen well above rejected teaches length: raise length control."
    length = _by_model(summary, {"tokens": "tokens"})
    charts = [
        Chart("Lengths", "Response length by model", "Mean tokens of held-out responses at temperature 1.", length),
        Chart("Lengths", "Chosen and rejected responses", note, _by_iteration(long, "member", "tokens")),
    ]
    return [chart for chart in charts if chart.figure.data]


def outcomes(pairs: pl.DataFrame, ledger: pl.DataFrame) -> pl.DataFrame:
    """`iteration`, `prompt_id`, `kind`, `outcome` of every prompt and kind: `pair`, or the reason why there is none."""
    keys = ["iteration", "prompt_id", "kind"]
    dropped = ledger.select(*keys, pl.col("reason").alias("outcome"))
    return pl.concat([pairs.select(*keys, pl.lit("pair").alias("outcome")), dropped])


def drop_charts(results: pl.DataFrame) -> list[Chart]:
    """What became of the prompts, from `outcomes`."""
    figure = _stacked(results, "outcome", first="pair", within="kind")
    note = "Each prompt is a pair or has one reason why it is not; likewise for the pairs of judgements."
    return [Chart("What was dropped, and why", "Prompts by outcome", note, figure)]


def collapse_signs(
    votes: pl.DataFrame, scores: pl.DataFrame, results: pl.DataFrame, battles: pl.DataFrame
) -> pl.DataFrame:
    """`iteration`, `sign`, `value`: numbers that drift when self-judging collapses; no row where nothing was measured.

    top score: share of parsed votes at the highest score of the run; ties: share of prompts without an actor pair
    because all scores are equal; judge variance: mean over the candidates; first slot wins: share of verdicts (0.5 is
    unbiased); order flips: share of compared judgements whose winner changes with the order.
    """
    top, tie = pl.col("score") == votes["score"].max(), pl.col("outcome") == "tie"
    parts = [
        _mean(votes, top).with_columns(sign=pl.lit("top score")),
        _mean(results.filter(pl.col("kind") == "actor"), tie).with_columns(sign=pl.lit("ties")),
        _mean(scores, pl.col("variance")).with_columns(sign=pl.lit("judge variance")),
        _meta_judge_signs(battles),
    ]
    long = pl.concat([part.select("iteration", "sign", "value") for part in parts])
    return long.filter(pl.col("value").is_not_null()).sort("iteration", maintain_order=True)


def collapse_charts(signs: pl.DataFrame) -> list[Chart]:
    """`collapse_signs` over the iterations."""
    section, variance = "Signs of collapse", pl.col("sign") == "judge variance"
    shares = _by_iteration(signs.filter(~variance), "sign", "value")
    note = (
        "Top score: votes at the highest score. Ties: prompts with equal scores only. First slot wins: 50 % is "
        "unbiased. Order flips: compared judgements whose winner changes with the order."
    )
    return [
        Chart(section, "Shares to watch", note, shares.update_yaxes(tickformat=".0%", rangemode="tozero")),
        Chart(
            section,
            "Judge variance",
            "Variance of the votes on a candidate, mean over the candidates; towards 0, votes add nothing.",
            _by_iteration(signs.filter(variance), "sign", "value").update_yaxes(rangemode="tozero"),
        ),
    ]


def training_charts(metrics: pl.DataFrame) -> list[Chart]:
    """Training curves, one line per iteration, from rows of table `train_metrics`."""
    charts = []
    for name, title, note in (
        ("loss", "Loss", "DPO starts at ln 2 = 0.693."),
        ("accuracy", "Preference accuracy", "Share of pairs whose implicit reward prefers the chosen member."),
        ("reward_margin", "Reward margin", "Implicit reward of chosen less rejected."),
    ):
        figure = _lines(metrics.filter(pl.col("metric") == name), "step", "value", "iteration", mode="lines")
        charts.append(Chart("Training", title, f"{note} One point per optimizer step.", figure))
    figure = go.Figure(layout=_layout(xaxis_title="step"))
    for metric, dash in (("logprob_chosen", "solid"), ("logprob_rejected", "dot")):
        part = _lines(metrics.filter(pl.col("metric") == metric), "step", "value", "iteration", mode="lines")
        for trace in part.data:
            label = metric.removeprefix("logprob_")
            figure.add_trace(trace.update(name=f"{trace.name}, {label}", line_dash=dash))
    note = "Mean log-probability (nats) of the members; chosen should not fall for long."
    charts.append(Chart("Training", "Log-probability of the members", note, figure))
    return [chart for chart in charts if chart.figure.data]


def _mean(rows: pl.DataFrame, value: pl.Expr) -> pl.DataFrame:
    return rows.group_by("iteration").agg(value=value.mean())


def _meta_judge_signs(battles: pl.DataFrame) -> pl.DataFrame:
    rows: list[tuple[int, str, float | None]] = []
    for (iteration,), part in battles.group_by("iteration"):
        if part["winner"].count():
            rows.append((int(iteration), "first slot wins", slot_weights(part)[1]))
        rows.append((int(iteration), "order flips", flip_rate(part)))
    schema = {"iteration": pl.Int64, "sign": pl.String, "value": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _layout(**more: Any) -> go.Layout:
    return go.Layout(
        template="none",
        height=320,
        margin={"l": 48, "r": 12, "t": 36, "b": 44},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        hovermode="x unified",
        **more,
    )


def _by_model(summary: pl.DataFrame, names: dict[str, str], tickformat: str | None = None) -> go.Figure:
    """One line with intervals for each metric of `names` that was measured."""
    figure = go.Figure(layout=_layout(yaxis={"tickformat": tickformat}))
    for (metric, name), colour in zip(names.items(), PALETTE, strict=False):
        rows = summary.filter(pl.col("metric") == metric).sort("model")
        if rows.is_empty():
            continue
        above, below = rows["high"] - rows["value"], rows["value"] - rows["low"]
        bars = {"type": "data", "array": above.to_list(), "arrayminus": below.to_list(), "thickness": 1.5, "width": 5}
        x = [f"model {model}" for model in rows["model"]]
        figure.add_scatter(
            x=x, y=rows["value"].to_list(), error_y=bars, name=name, mode="lines+markers", line_color=colour
        )
    return figure.update_layout(showlegend=len(figure.data) > 1)


def _by_iteration(rows: pl.DataFrame, series: str, value: str) -> go.Figure:
    """One line per value of `series`, over the iterations."""
    return _lines(rows, "iteration", value, series).update_xaxes(dtick=1)


def _lines(rows: pl.DataFrame, x: str, y: str, series: str, mode: str = "lines+markers") -> go.Figure:
    """One line per value of `series`; numbers are named after their column (`iteration 1`)."""
    figure = go.Figure(layout=_layout(xaxis={"title": {"text": x}}))
    names = rows[series].unique(maintain_order=True)
    numbered = names.dtype.is_integer()
    for name, colour in zip(names.sort() if numbered else names, cycle(PALETTE), strict=False):
        part = rows.filter(pl.col(series) == name).sort(x)
        label = f"{series} {name}" if numbered else name
        figure.add_scatter(x=part[x].to_list(), y=part[y].to_list(), name=label, mode=mode, line_color=colour)
    return figure


def _histogram(rows: pl.DataFrame, value: str, series: str) -> go.Figure:
    """Share of each value within each series, as grouped bars; values are binned where there are very many."""
    figure = go.Figure(layout=_layout(xaxis={"title": {"text": value}}, yaxis={"tickformat": ".0%"}, barmode="group"))
    if rows[value].n_unique() > _MOST_BARS:
        low, high = float(rows[value].min()), float(rows[value].max())  # type: ignore[arg-type]
        width = (high - low) / (_MOST_BARS - 1)
        rows = rows.with_columns(((pl.col(value) - low) / width).round() * width + low)
    counts = rows.group_by(series, value).len().with_columns(share=pl.col("len") / pl.col("len").sum().over(series))
    groups = counts.sort(series, value).group_by(series, maintain_order=True)
    for ((name,), part), colour in zip(groups, cycle(PALETTE), strict=False):
        x, y = part[value].to_list(), part["share"].to_list()
        figure.add_bar(x=x, y=y, name=f"{series} {name}", marker_color=colour)
    return figure


def _stacked(rows: pl.DataFrame, series: str, first: str, within: str | None = None) -> go.Figure:
    """Number of rows by `series` (value `first` at the bottom), stacked, over the iterations (and kinds `within`)."""
    figure = go.Figure(layout=_layout(barmode="stack", showlegend=True))
    levels = ["iteration", within] if within else ["iteration"]
    bars = rows.select(levels).unique().sort(levels)
    sizes = rows.group_by(series).len().sort(pl.col(series) == first, "len", series, descending=[True, True, False])
    x = [[f"iteration {number}" for number in bars["iteration"]], *([bars[within].to_list()] if within else [])]
    for name, colour in zip(sizes[series], cycle(PALETTE), strict=False):
        counts = rows.filter(pl.col(series) == name).group_by(levels).len()
        y = bars.join(counts, on=levels, how="left", maintain_order="left")["len"].fill_null(0).to_list()
        figure.add_bar(x=x if within else x[0], y=y, name=name, marker_color=colour)
    return figure
