"""Report: one self-contained HTML page about a run, which opens from disk and asks nothing of the network.

Reads:  every table of the run directory: prompts, candidates, judgements, scores, verdicts, pairs, training metrics
        and evaluations.
Does:   the headline numbers, warnings, charts, what the stages took, and a fixed sample of prompts that a person can
        follow through the stages.
Writes: the page; and to standard output the headline numbers, the warnings and the path of the page.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from pydantic import Field

from stages.algorithms.collapse import collapse_signs
from stages.algorithms.collapse_warnings import collapse_warnings
from stages.algorithms.gains import gains
from stages.algorithms.panel import panel
from stages.algorithms.run_trends import run_trends
from stages.config import Section
from stages.contracts.artifacts import provenance
from stages.contracts.cli import run
from stages.contracts.files import atomic
from stages.contracts.schema import frame
from stages.forecast.earlier import earlier_rates
from stages.inspection.run_folder import RunFolder
from stages.reporting import charts, kept
from stages.reporting.captions import Drawn, how_drawn
from stages.reporting.costs import clocks, cost_grids, ranks
from stages.reporting.grids import (
    HEADLINE,
    Grid,
    as_text,
    by_model,
    check_grids,
    gain_grids,
    judge_grids,
    panel_grids,
    trend_grids,
)
from stages.reporting.match_grids import match_grids
from stages.reporting.page import render
from stages.reporting.run_files import Source
from stages.reporting.samples import Row, Tables, follow, sample_prompts
from stages.tables import (
    BATTLES,
    CANDIDATES,
    CHECK_EVALUATIONS,
    EVALUATIONS,
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
    WIN_RATES,
)

SAMPLE_PROMPTS = 400
"""Prompts of an iteration that the page follows, at most."""
SAMPLE_BYTES = 1_000_000
"""What they take in gzip over all iterations, at most. The page then has less than 1.5 MB, and Chromium shows it within
the single file of `snakemake --report`, too."""
SECTIONS = [
    "Does it get better?",
    "Judge",
    charts.EFT,
    "Created prompts",
    "What the judge says",
    "Lengths",
    "What was dropped, and why",
    "Trends",
    "Signs of collapse",
    "Training",
    "Cost",
]


class Args(Section):
    """Command line of the stage."""

    run: Path = Field(description="Directory of the run.")
    iterations: int = Field(ge=1, description="Iterations of the run.")
    meta_iterations: list[int] = Field([], description="Those of them in which judgements were compared.")
    create_iterations: list[int] = Field([], description="Those of them in which prompts were created.")
    win_rates: list[Path] = Field([], description="Win rates of models that were compared (Parquet).")
    eft: bool = Field(False, description="Whether model 0 comes of evaluation fine-tuning (EFT) of a base model.")
    output: Path = Field(description="Output: the page (HTML).")
    title: str = Field("Meta-Rewarding run", description="Title of the page.")


class Measured(NamedTuple):
    """The evaluations of all models (tables `summary`, `evaluations` without texts, `check_evaluations`,
    `judge_evaluations`, with a column `model`), and how what was measured was drawn."""

    summary: pl.DataFrame
    evaluations: pl.DataFrame
    checked: pl.DataFrame
    judge: pl.DataFrame
    drawn: Drawn


def _read_iterations(source: Source) -> Tables:
    """The iterations' tables, but for the bulky texts, which are read for the sample alone."""
    return Tables(
        prompts=source.every("prompts.parquet", PROMPTS),
        candidates=source.every_shard(
            "candidates", CANDIDATES, [*CANDIDATES.key, "tokens", "finish_reason", "twin_of"]
        ),
        judgements=frame(JUDGEMENTS, []),
        votes=source.every("votes.parquet", VOTES, [*VOTES.key, "judge", "score", "span", "parse_status", "tokens"]),
        scores=source.every("scores.parquet", SCORES),
        verdicts=frame(VERDICTS, []),
        battles=source.every("battles.parquet", BATTLES),
        ratings=source.every("ratings.parquet", RATINGS),
        pairs=_pairs(source),
        ledger=source.every("pair_ledger.parquet", PAIR_LEDGER),
    )


def _pairs(source: Source) -> pl.DataFrame:
    """Rows of `pairs` with the lengths of their members in place of their texts and tokens."""
    sides = ("chosen", "rejected")
    tokens = [f"{side}_token_ids" for side in sides]
    bulky = {"prompt", "prompt_token_ids", *sides}
    pairs = source.every("pairs.parquet", PAIRS, [name for name in PAIRS.columns if name not in bulky])
    lengths = [pl.col(name).list.len().alias(name.replace("token_ids", "tokens")) for name in tokens]
    return pairs.with_columns(lengths).drop(tokens)


def _read_evaluations(source: Source) -> Measured:
    numbers = [name for name in SUMMARY.columns if name != "model"]
    answers = [*EVALUATIONS.key, "tokens", "quality"]
    checks = [*CHECK_EVALUATIONS.key, "instruction", "strict", "loose"]
    judged = [*JUDGE_EVALUATIONS.key, "rank", "quality", "score"]
    return Measured(
        source.models("summary.parquet", SUMMARY, numbers),
        source.models("evaluations.parquet", EVALUATIONS, answers),
        source.models("check_evaluations.parquet", CHECK_EVALUATIONS, checks),
        source.models("judge_evaluations.parquet", JUDGE_EVALUATIONS, judged),
        how_drawn(source),
    )


def _cost_grids(source: Source) -> list[Grid]:
    rates = earlier_rates(RunFolder(source.run, tuple(range(1, source.iterations + 1))))
    return cost_grids(clocks(source.run), rates, ranks(source))


def _batch_sizes(source: Source) -> pl.DataFrame:
    """`iteration` and `batch_size` of each training."""
    files = source.of_iterations("train/metrics.parquet")
    rows = [(number, source.settings(path)["batch_size"]) for number, path in files.items()]
    return pl.DataFrame(rows, schema={"iteration": pl.Int64, "batch_size": pl.Int64}, orient="row")


def _charts(
    measured: Measured, tables: Tables, results: pl.DataFrame, signs: pl.DataFrame, metrics: pl.DataFrame
) -> list[charts.Chart]:
    summary, evaluations, _, judge, drawn = measured
    return [
        *charts.evaluation_charts(summary, evaluations, drawn.answers),
        *charts.judge_charts(summary, judge, drawn.test_votes),
        *charts.score_charts(tables.votes, drawn.votes),
        *charts.length_charts(summary, tables.pairs, drawn.answers),
        *charts.drop_charts(results, tables.ledger),
        *charts.collapse_charts(signs),
        *charts.training_charts(metrics),
    ]


def _trends(source: Source, tables: Tables, metrics: pl.DataFrame) -> pl.DataFrame:
    sizes = _batch_sizes(source)
    return run_trends(tables.candidates, tables.votes, tables.scores, tables.battles, tables.pairs, metrics, sizes)


def _grids(measured: Measured, tables: Tables, gained: list[Row], trends: pl.DataFrame) -> list[Grid]:
    return [
        *gain_grids(gained),
        *check_grids(measured.summary),
        *judge_grids(measured.summary),
        *trend_grids(trends),
        *panel_grids(panel(tables.votes)),
    ]


def _iteration(source: Source, number: int, tables: Tables, results: pl.DataFrame) -> Row:
    """What the page knows of an iteration: how many prompts had which outcome, and the prompts that it follows."""
    here = pl.col("iteration") == number
    results = results.filter(here)
    ids = sample_prompts(results, SAMPLE_PROMPTS)
    keys = CANDIDATES.key
    texts = {
        "candidates": (CANDIDATES, [*keys, "sample", "text", "finish_reason", "tokens"]),
        "judgements": (JUDGEMENTS, [*keys, "vote", "text"]),
        "verdicts": (VERDICTS, [*keys, "vote_a", "vote_b", "text"]),
    }
    bulky = {name: source.shards(number, name, table, columns, ids) for name, (table, columns) in texts.items()}
    small = {name: rows.filter(here) for name, rows in vars(tables).items() if name not in bulky}
    sizes = results.group_by("kind", "outcome").len("prompts")
    return {
        "iteration": number,
        "total": small["prompts"].height,
        "outcomes": sizes.sort("kind", "prompts", "outcome", descending=[False, True, False]).to_dicts(),
        "prompts": follow(ids, Tables(**small, **bulky), SAMPLE_BYTES // source.iterations),
    }


def _sections(drawn: list[charts.Chart], grids: list[Grid], eft: str) -> dict[str, dict[str, Any]]:
    """What the page shows of each section that has anything: a sentence, tables, charts."""
    sections = {
        name: {
            "text": eft if name == charts.EFT else "",
            "grids": [grid for grid in grids if grid.section == name],
            "charts": [chart for chart in drawn if chart.section == name],
        }
        for name in SECTIONS
    }
    return {name: section for name, section in sections.items() if any(section.values())}


def _origin(path: Path, folder: Path) -> dict[str, str]:
    facts = provenance(path)
    names = ("stage", "code", "settings_digest", "model", "seed")
    return {"file": str(path.relative_to(folder)), **{name: str(facts.get(name, "")) for name in names}}


def _shown(args: Args, source: Source, measured: Measured, tables: Tables, results: pl.DataFrame) -> dict[str, Any]:
    """The sections of the page and its warnings."""
    signs = collapse_signs(tables.votes, tables.scores, results, tables.battles, measured.drawn.scale)
    gained = gains(measured.evaluations, measured.judge, measured.checked)
    metrics = source.every("train/metrics.parquet", TRAIN_METRICS)
    trends = _trends(source, tables, metrics)
    win_rates = source.those(args.win_rates, WIN_RATES)
    eft, eft_scores = kept.eft(source)
    drawn = [
        *charts.match_charts(win_rates),
        *_charts(measured, tables, results, signs, metrics),
        *charts.eft_charts(eft_scores),
        *charts.creation_charts(kept.creations(source)),
    ]
    grids = [*_grids(measured, tables, gained, trends), *match_grids(win_rates), *_cost_grids(source)]
    warnings = collapse_warnings(signs, trends, measured.summary, gained, measured.drawn.scale)
    return {"sections": _sections(drawn, grids, eft), "warnings": warnings}


def main(args: Args) -> None:
    """Read, draw, write the page, print the headline and the warnings."""
    source = Source(args.run, args.iterations, args.meta_iterations, args.create_iterations, args.eft)
    measured = _read_evaluations(source)
    tables = _read_iterations(source)
    results = charts.outcomes(tables.pairs, tables.ledger)
    shown = _shown(args, source, measured, tables, results)
    iterations = [_iteration(source, number, tables, results) for number in range(1, args.iterations + 1)]
    head, rows = by_model(measured.summary, HEADLINE)
    page = render(
        {"iterations": iterations},
        title=args.title,
        head=head,
        rows=rows,
        pool=kept.pool(source),
        drawn=measured.drawn,
        followed=sum(len(iteration["prompts"]) for iteration in iterations),
        provenance=[_origin(path, args.run) for path in source.files],
        **shown,
    )
    with atomic(args.output) as partial:
        partial.write_text(page, encoding="utf-8")
    print(f"report: {len(source.files)} tables, {len(page) / 1e6:.1f} MB", file=sys.stderr)
    told = [f"Warning: {warning.place}: {warning.finding}. {warning.advice}" for warning in shown["warnings"]]
    print("\n".join([as_text(head, rows), "", *told, f"Report: {args.output}"]))


if __name__ == "__main__":
    run(Args, main)
