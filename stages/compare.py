"""Compare: two models' answers to the same held-out prompts, by a judge that sees both, as raw text and as numbers.

Reads:  the answers of a model, those of another one or the data's own, the judge's template and its directory.
Does:   asks which of two answers is better, in both orders, without the thoughts before them. Answers that do not fit
        the judge together, that failed, or that are the same, are not asked about; their rows say so. A pair whose
        verdict changes with the order is a tie.
Writes: one row per comparison (COMPARISONS), and the win rates (WIN_RATES), one of them at equal lengths.
"""

import sys
from pathlib import Path

import polars as pl
from pydantic import Field

from stages.algorithms.head_to_head import win_rates
from stages.algorithms.thoughts import answers_of
from stages.algorithms.votes_and_battles import parse_winners
from stages.config import REFERENCES, EngineSettings, HeadToHeadSettings, RateSection, TemplateSettings
from stages.contracts.artifacts import read, read_joined, write
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.ids import Seeds
from stages.contracts.provenance import describe
from stages.contracts.schema import frame
from stages.engines.resumable import Generator, publish, summary
from stages.prompting.compare_requests import both_orders, compare_inputs, compare_requests, fitting
from stages.prompting.templates import COMPARE_VARIABLES, load_template
from stages.prompting.unasked import unasked
from stages.tables import COMPARISONS, EVALUATIONS, PROMPTS, WIN_RATES


class Args(HeadToHeadSettings):
    """Command line of the stage."""

    chat: TemplateSettings = Field(TemplateSettings(), description="How conversations are rendered.")
    engine: EngineSettings = Field(EngineSettings(), description="Generation engine.")
    pattern: str = Field(
        RateSection.model_fields["pattern"].default,
        description="`rate.pattern`, a grammar's name or an expression: how verdicts are read.",
    )
    model: Path = Field(description="Hugging Face directory of the model that judges.")
    number: int = Field(ge=-1, description="Number of the model that is measured.")
    evaluations: Path = Field(description="Its answers (Parquet).")
    other: str = Field(description="Number of the model that it is compared with, or `references`.")
    answers: Path = Field(description="Answers of that one; for `references`, prompts with answers (Parquet).")
    seed: int = Field(0, description="Seed of the run.")
    comparisons: Path = Field(description="Output: comparisons (Parquet).")
    win_rates: Path = Field(description="Output: win rates (Parquet).")


def paired(args: Args) -> pl.DataFrame:
    """What is compared: the keys of EVALUATIONS, `messages`, both texts, their lengths, and whether one `failed`."""
    own = read(args.evaluations, EVALUATIONS, [*EVALUATIONS.key, "messages", "text", "finish_reason"])
    other = _others(args, own.select(EVALUATIONS.key))
    other = other.with_columns(answers_of(other["text"])).rename(
        {"text": "other_text", "finish_reason": "other_reason"}
    )
    pairs = own.with_columns(answers_of(own["text"])).join(other, on=EVALUATIONS.key, validate="1:1")
    return pairs.with_columns(
        characters=pl.col("text").str.len_chars().cast(pl.Int64),
        other_characters=pl.col("other_text").str.len_chars().cast(pl.Int64),
        failed=(pl.col("finish_reason") == "error") | (pl.col("other_reason") == "error"),
    ).drop("finish_reason", "other_reason")


def _others(args: Args, asked: pl.DataFrame) -> pl.DataFrame:
    """The other answers, `text` and `finish_reason`, to what is `asked` (the keys of EVALUATIONS)."""
    if args.other != REFERENCES:
        return read_joined(asked, args.answers, EVALUATIONS, ["text", "finish_reason"])
    given = read_joined(asked, args.answers, PROMPTS, ["answer"]).rename({"answer": "text"}).drop_nulls("text")
    if given.is_empty():
        raise StageError(
            f"{args.answers}: no held-out prompt has an answer of its data set: set evaluate.head_to_head.references "
            "to false, or take prompts with answers"
        )
    prompts, answered = asked["prompt_id"].n_unique(), given["prompt_id"].n_unique()
    print(f"compare: {prompts - answered} of {prompts} prompts have no answer of their data set", file=sys.stderr)
    return given.with_columns(finish_reason=pl.lit("stop"))


def named(verdicts: pl.DataFrame, pattern: str) -> pl.DataFrame:
    """Verdicts (rows of COMPARISONS without what is read from them) with `winner` by name and `parse_status`."""
    other = pl.when(pl.col("first") == "model").then(pl.lit("other")).otherwise(pl.lit("model"))
    by_place = pl.when(pl.col("winner") == "a").then("first").when(pl.col("winner") == "b").then(other)
    return parse_winners(verdicts, pattern).with_columns(winner=by_place)


def _asked(args: Args, generator: Generator, pairs: pl.DataFrame, seeds: Seeds) -> pl.DataFrame:
    """Completions of all comparisons, also of those that are not asked for."""
    template = load_template(args.template, COMPARE_VARIABLES)
    limit = generator.prompt_limit(args.sampling)
    every = compare_inputs(both_orders(pairs), template, generator.chat)
    failed, alike = pl.col("failed"), ~pl.col("failed") & (pl.col("text") == pl.col("other_text"))
    different = every.filter(~failed & ~alike)
    inputs = fitting(different, limit)
    over_long = different.join(inputs, on=COMPARISONS.key, how="anti")
    left_out = [
        (every.filter(failed), "error", "one of the answers failed"),
        (every.filter(alike), "alike", "the answers are the same"),
        (over_long, "error", f"longer than {limit} tokens in one of both orders"),
    ]
    verdicts = generator.complete(compare_requests(inputs, seeds), args.sampling, args.comparisons)
    counts = ", ".join(f"{rows.height // 2} {why}" for rows, _, why in left_out)
    print(f"compare: {summary(verdicts, 'request_id')}; pairs not asked about: {counts}", file=sys.stderr)
    rest = [unasked(compare_requests(rows, seeds), reason, why) for rows, reason, why in left_out]
    return pl.concat([verdicts, *(rows.select(verdicts.columns) for rows in rest)])


def main(args: Args) -> None:
    """Pair, ask, read, count, write."""
    pairs = paired(args)
    with Generator(args.model, args.engine, args.chat) as generator:
        verdicts = _asked(args, generator, pairs, Seeds(args.seed, 0))
    lengths = pairs.select(*EVALUATIONS.key, "characters", "other_characters")
    comparisons = named(verdicts, args.pattern).join(lengths, on=EVALUATIONS.key, validate="m:1")
    comparisons = comparisons.select(list(COMPARISONS.columns))
    numbers = [{"model": args.number, "other": args.other, **row} for row in win_rates(comparisons)]
    origin = describe(
        "compare", args, [args.evaluations, args.answers, args.template], seed=args.seed, **generator.facts
    )
    write(frame(WIN_RATES, numbers), args.win_rates, WIN_RATES, origin)
    publish(comparisons, args.comparisons, COMPARISONS, origin)
    print(", ".join(f"{row['metric']} {row['value']:.3f}" for row in numbers), file=sys.stderr)


if __name__ == "__main__":
    run(Args, main)
