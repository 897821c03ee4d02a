"""Report: one self-contained HTML page about a run, which opens from disk and asks nothing of the network.

Reads:  every table of the run directory: prompts, candidates, judgements, scores, verdicts, pairs, training metrics
        and evaluations.
Does:   the headline numbers, the charts, and a fixed sample of prompts that a person can follow through the stages.
Writes: the page; and to standard output the headline numbers and the path of the page.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs
from pydantic import Field

from stages import charts
from stages.artifacts import Table, atomic, frame, provenance, read
from stages.cli import run
from stages.config import Section
from stages.errors import StageError
from stages.ids import digest
from stages.report_samples import Row, Tables, follow, sample_prompts
from stages.tables import (
    BATTLES,
    CANDIDATES,
    EVALUATIONS,
    INGEST_LEDGER,
    JUDGE_EVALUATIONS,
    JUDGEMENTS,
    PAIR_LEDGER,
    PAIRS,
    PROMPTS,
    RATINGS,
    SCORES,
    SUMMARY,
    TRAIN_METRICS,
    VERDICTS,
    VOTES,
)

TEMPLATE = Path(__file__).with_name("report.html.jinja")
SAMPLE_PROMPTS = 150
"""Prompts of an iteration that the page follows, at most."""
SAMPLE_CHARACTERS = 3_000_000
"""Characters of text that the page embeds over all iterations: with plotly.js it stays under about 8 MB."""
HEADLINE = {
    "quality": ("True quality", "{:.2f}"),
    "quality_greedy": ("Greedy quality", "{:.2f}"),
    "judge_accuracy": ("Judge accuracy", "{:.1%}"),
    "tokens": ("Mean length", "{:.1f}"),
}


class Args(Section):
    """Command line of the stage."""

    run: Path = Field(description="Directory of the run.")
    iterations: int = Field(ge=1, description="Iterations of the run.")
    output: Path = Field(description="Output: the page (HTML).")
    title: str = Field("Meta-Rewarding run", description="Title of the page.")


@dataclass(frozen=True)
class Source:
    """The files of a run; remembers which were read."""

    run: Path
    iterations: int
    files: list[Path]

    def one(self, path: Path, table: Table, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of one file."""
        self.files.append(path)
        return read(path, table, columns)

    def every(self, name: str, table: Table, columns: Sequence[str] | None = None) -> pl.DataFrame:
        """The rows of `iter-<t>/<name>` of every iteration, with a column `iteration`.

        Meta-judging is left out of some iterations: they have no battles and ratings, hence no rows of them.
        """
        optional = table in (BATTLES, RATINGS)
        parts = [frame(table, []).select(columns or list(table.columns)).with_columns(iteration=pl.lit(0, pl.Int64))]
        for iteration in range(1, self.iterations + 1):
            path = self.run / f"iter-{iteration}" / name
            if not optional or path.exists():
                part = self.one(path, table, columns)
                parts.append(part.with_columns(iteration=pl.lit(iteration, pl.Int64)))
        return pl.concat(parts)

    def models(self, name: str, table: Table, columns: Sequence[str], optional: bool = False) -> pl.DataFrame:
        """The rows of `evaluation/<t>/<name>` of every model, with a column `model`."""
        parts = [frame(table, []).select(columns).with_columns(model=pl.lit(0, pl.Int64))]
        for model in range(self.iterations + 1):
            path = self.run / "evaluation" / str(model) / name
            if not optional or path.exists():
                parts.append(self.one(path, table, columns).with_columns(model=pl.lit(model, pl.Int64)))
        return pl.concat(parts)

    def shards(self, iteration: int, folder: str, table: Table, columns: Sequence[str], ids: list[str]) -> pl.DataFrame:
        """The rows of some prompts in all files of a folder, read file by file: together they may be very large.

        Raises StageError if there are no files; only verdicts may be missing, as judgements are not always compared.
        """
        place = self.run / f"iter-{iteration}" / folder
        paths = sorted(place.glob("*.parquet"))
        if not paths and table is not VERDICTS:
            raise StageError(f"{place}: no Parquet files (expected {table.name}); check --run and --iterations")
        parts = [self.one(path, table, columns).filter(pl.col("prompt_id").is_in(ids)) for path in paths]
        return pl.concat([frame(table, []).select(columns), *parts])


def headline(summary: pl.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the headline table from rows of table `summary`; metrics that were not measured have no column.

    The first column is the model; a cell is a mean, with half the width of its 95 % interval where it has one.
    """
    measured = [metric for metric in HEADLINE if metric in summary["metric"]]
    values = {(row["model"], row["metric"]): row for row in summary.iter_rows(named=True)}
    models = sorted({model for model, _ in values})
    rows = [[str(model), *(_cell(values.get((model, metric)), metric) for metric in measured)] for model in models]
    return ["Model", *(HEADLINE[metric][0] for metric in measured)], rows


def as_text(head: list[str], rows: list[list[str]]) -> str:
    """A table with aligned columns, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
    return "\n".join(lines)


def embedded(data: object) -> Markup:
    """JSON that is safe inside a script element: no character of it can end the element or start a comment."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate({ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}))


def main(args: Args) -> None:
    """Read, draw, write the page, print the headline."""
    source = Source(args.run, args.iterations, [])
    models = range(args.iterations + 1)
    summary = pl.concat([source.one(args.run / "evaluation" / str(t) / "summary.parquet", SUMMARY) for t in models])
    tables = _read_iterations(source)
    results = charts.outcomes(tables.pairs, tables.ledger)
    drawn = _charts(source, summary, tables, results)
    iterations = [_iteration(source, number, tables, results) for number in range(1, args.iterations + 1)]
    head, rows = headline(summary)
    data = {"figures": [json.loads(chart.figure.to_json()) for chart in drawn], "iterations": iterations}
    page = _render(
        title=args.title,
        head=head,
        rows=rows,
        pool=_pool(source),
        sections=_sections(drawn),
        provenance=[_origin(path, args.run) for path in source.files],
        shown=sum(len(iteration["prompts"]) for iteration in iterations),
        data=data,
    )
    with atomic(args.output) as partial:
        partial.write_text(page, encoding="utf-8")
    print(f"report: {len(drawn)} charts, {len(source.files)} tables, {len(page) / 1e6:.1f} MB", file=sys.stderr)
    print(f"{as_text(head, rows)}\n\nReport: {args.output}")


def _read_iterations(source: Source) -> Tables:
    """The iterations' tables, but for the bulky texts, which are read for the sample alone."""
    return Tables(
        prompts=source.every("prompts.parquet", PROMPTS),
        candidates=frame(CANDIDATES, []),
        judgements=frame(JUDGEMENTS, []),
        votes=source.every("votes.parquet", VOTES),
        scores=source.every("scores.parquet", SCORES),
        verdicts=frame(VERDICTS, []),
        battles=source.every("battles.parquet", BATTLES),
        ratings=source.every("ratings.parquet", RATINGS),
        pairs=_lengths(source.every("pairs.parquet", PAIRS)),
        ledger=source.every("pair_ledger.parquet", PAIR_LEDGER),
    )


def _lengths(pairs: pl.DataFrame) -> pl.DataFrame:
    sides = ("chosen", "rejected")
    tokens = [pl.col(f"{side}_token_ids").list.len().alias(f"{side}_tokens") for side in sides]
    return pairs.with_columns(tokens).drop(
        "prompt", "prompt_token_ids", *sides, *(f"{side}_token_ids" for side in sides)
    )


def _charts(source: Source, summary: pl.DataFrame, tables: Tables, results: pl.DataFrame) -> list[charts.Chart]:
    evaluations = source.models("responses.parquet", EVALUATIONS, ["decoding", "quality"])
    judge = source.models("judge.parquet", JUDGE_EVALUATIONS, ["quality", "score"], optional=True)
    metrics = source.every("train/metrics.parquet", TRAIN_METRICS)
    return [
        *charts.evaluation_charts(summary, evaluations, judge),
        *charts.score_charts(tables.votes),
        *charts.length_charts(summary, tables.pairs),
        *charts.drop_charts(results),
        *charts.collapse_charts(charts.collapse_signs(tables.votes, tables.scores, results, tables.battles)),
        *charts.training_charts(metrics),
    ]


def _iteration(source: Source, number: int, tables: Tables, results: pl.DataFrame) -> Row:
    """What the page knows of an iteration: how many prompts had which outcome, and the prompts that it follows."""
    here = pl.col("iteration") == number
    results = results.filter(here)
    ids = sample_prompts(results, SAMPLE_PROMPTS)
    keys = ["prompt_id", "candidate_id"]
    texts = {
        "candidates": (CANDIDATES, [*keys, "sample", "text", "finish_reason", "token_ids"]),
        "judgements": (JUDGEMENTS, [*keys, "vote", "text"]),
        "verdicts": (VERDICTS, [*keys, "vote_a", "vote_b", "text"]),
    }
    bulky = {name: source.shards(number, name, table, columns, ids) for name, (table, columns) in texts.items()}
    small = {name: rows.filter(here) for name, rows in vars(tables).items() if name not in bulky}
    counts = results.group_by("kind", "outcome").len("prompts").sort("kind", "prompts", descending=[False, True])
    return {
        "iteration": number,
        "total": small["prompts"].height,
        "outcomes": counts.to_dicts(),
        "prompts": follow(ids, Tables(**small, **bulky), SAMPLE_CHARACTERS // source.iterations),
    }


def _sections(drawn: list[charts.Chart]) -> dict[str, list[tuple[int, charts.Chart]]]:
    """Charts by section, each with its number among the figures."""
    sections: dict[str, list[tuple[int, charts.Chart]]] = {}
    for number, chart in enumerate(drawn):
        sections.setdefault(chart.section, []).append((number, chart))
    return sections


def _pool(source: Source) -> str:
    """A sentence on the pool of prompts and the rows that did not get into it."""
    folder = source.run / "prompts"
    pool = source.one(folder / "pool.parquet", PROMPTS, ["split"])
    dropped = source.one(folder / "ingest_ledger.parquet", INGEST_LEDGER)
    text = f"Pool: {pool.height} prompts ({_counts(pool, 'split')}); {dropped.height} input rows dropped"
    return f"{text} ({_counts(dropped, 'reason')})." if dropped.height else f"{text}."


def _counts(rows: pl.DataFrame, column: str) -> str:
    counts = rows.group_by(column).len().sort("len", column, descending=[True, False])
    return ", ".join(f"{count} {name}" for name, count in counts.iter_rows())


def _origin(path: Path, folder: Path) -> dict[str, str]:
    facts = provenance(path)
    names = ("stage", "code", "settings_digest", "model", "seed")
    return {"file": str(path.relative_to(folder)), **{name: str(facts.get(name, "")) for name in names}}


def _cell(row: dict[str, Any] | None, metric: str) -> str:
    if row is None:
        return ""
    form = HEADLINE[metric][1]
    value = form.format(row["value"])
    if row["low"] is None or row["high"] is None:
        return value
    return f"{value} ± {form.format((row['high'] - row['low']) / 2)}"


def _render(data: object, **values: Any) -> str:
    """The page; everything but our own script and plotly's is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    payload = embedded(data)
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(**values, data=payload, nonce=digest(payload), plotly=Markup(get_plotlyjs()))


if __name__ == "__main__":
    run(Args, main)
