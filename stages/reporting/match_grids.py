"""The report's tables of models head to head, as text cells."""

from typing import Any

import polars as pl

from stages.algorithms.gains import verdict
from stages.algorithms.head_to_head import SUFFIXES, TIE
from stages.reporting.figures import model_name
from stages.reporting.grids import Grid, with_interval

METRICS = {
    "win_rate": ("Wins", "{:.1%}"),
    "win_rate_length_controlled": ("Wins at equal length", "{:.1%}"),
    "longer_by": ("Longer by", "{:+.1f}"),
    "tie_share": ("Ties", "{:.1%}"),
    "unparsed": ("Unparsed", "{:.1%}"),
}
NAMES = {"sample": "Head to head, sampled", "greedy": "Head to head, greedy"}
NOTE = (
    "Which of two answers a judge, the same for all rows, finds better, asked in both orders: wins, with half of each "
    "tie. Ties: pairs whose verdict changes with the order, and the same answers. At equal length: by a logistic "
    "regression on the difference of the lengths, as AlpacaEval 2 has it. Longer by: characters. Unparsed: pairs "
    "without a verdict in both orders, which count nowhere else. In words: wins at equal length, against one half."
)


def match_grids(win_rates: pl.DataFrame) -> list[Grid]:
    """How models do against others, from rows of table `win_rates`: a table for each decoding that was compared."""
    grids = [_of_decoding(win_rates, decoding) for decoding in SUFFIXES]
    return [grid for grid in grids if grid.rows]


def in_words(row: dict[str, Any] | None) -> str:
    """What a win rate (a row of `win_rates`) says, in the words of a gain: better or worse than one half, or neither;
    nothing without a row."""
    if row is None:
        return ""
    return verdict({**row, **{end: _over_half(row[end]) for end in ("value", "low", "high")}})


def _of_decoding(win_rates: pl.DataFrame, decoding: str) -> Grid:
    """The table of one decoding: a row for each model and what it is compared with."""
    values = {(row["model"], row["other"], row["metric"]): row for row in win_rates.iter_rows(named=True)}
    names = {metric + SUFFIXES[decoding]: form for metric, form in METRICS.items()}
    measured = sorted({(model, other) for model, other, metric in values if metric in names})
    rows = []
    for model, other in measured:
        found = {metric: values.get((model, other, metric)) for metric in names}
        cells = [with_interval(row, names[metric][1]) if row else "" for metric, row in found.items()]
        words = in_words(found["win_rate_length_controlled" + SUFFIXES[decoding]])
        rows.append([model_name(model), other, *cells, words])
    head = ["Model", "Against", *(name for name, _ in names.values()), "In words"]
    return Grid("Does it get better?", NAMES[decoding], NOTE, head, rows)


def _over_half(value: float | None) -> float | None:
    return None if value is None else value - TIE
