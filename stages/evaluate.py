"""Measure one model: its answers to held-out prompts, its judgement of answers whose ranks are known, and whether it
tells a better judgement of them from a worse one.

Reads:  a model, held-out prompts, and optionally the judge's test set and an oracle (a Python file).
Does:   answers each prompt by sampling and once greedily, with the same seeds for every model of a run; checks the
        instructions that prompts carry; judges the test set as the loop judges candidates; compares pairs of those
        judgements as the loop's meta-judge does.
Writes: the answers (EVALUATIONS), what their checks say (CHECK_EVALUATIONS), the judgements of the test set
        (JUDGEMENTS), its scores (JUDGE_EVALUATIONS), the comparisons (META_EVALUATIONS), and headline numbers
        (SUMMARY).
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import polars as pl
from pydantic import Field

from stages import tables
from stages.algorithms.aggregation import passed_shares, scores
from stages.algorithms.answer_metrics import answer_parts
from stages.algorithms.judge_metrics import judge_metrics, known_comparisons, meta_metrics, vote_errors
from stages.algorithms.prompt_parts import estimates
from stages.algorithms.statistics import UNBOUNDED, Bounds
from stages.algorithms.thoughts import answer_of, answers_of
from stages.algorithms.verification import followed_parts, loosely, outcomes
from stages.algorithms.votes_and_battles import parse_battles, parse_votes, shown_to_meta_judge
from stages.config import (
    EngineSettings,
    EvaluateSettings,
    JudgeSettings,
    MetaJudgeSettings,
    RateSection,
    Sampling,
    ScoreSection,
    TemplateSettings,
)
from stages.contracts.artifacts import read, write
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.ids import Message, Seeds
from stages.contracts.provenance import describe
from stages.contracts.schema import frame
from stages.engines.journal import remove_journals
from stages.engines.resumable import Generator
from stages.prompting.actor_requests import actor_inputs
from stages.prompting.judge_requests import judge_inputs, judge_requests
from stages.prompting.meta_judge_requests import fitting, meta_judge_inputs, meta_judge_requests
from stages.prompting.templates import JUDGE_VARIABLES, META_JUDGE_VARIABLES, load_template
from stages.tables import EVALUATIONS, JUDGE_TESTS, VERDICTS


class Oracle(NamedTuple):
    """What tells the true quality of an answer to a conversation, and the least and greatest quality that it gives."""

    quality: Callable[[list[Message], str], float]
    scale: Bounds


class Args(EvaluateSettings):
    """Command line of the stage."""

    chat: TemplateSettings = Field(TemplateSettings(), description="How conversations are rendered.")
    engine: EngineSettings = Field(EngineSettings(), description="Generation engine.")
    judge: JudgeSettings = Field(JudgeSettings(), description="How the model judges.")
    score: ScoreSection = Field(ScoreSection(), description="How judgements are read.")
    meta_judge: MetaJudgeSettings = Field(MetaJudgeSettings(), description="How the model compares judgements.")
    rate: RateSection = Field(RateSection(), description="How its verdicts are read.")
    model: Path = Field(description="Hugging Face directory of the model.")
    number: int = Field(ge=-1, description="Number of the model: 0 starts the loop, -1 is the base model before EFT.")
    pool: Path = Field(description="Prompts (Parquet).")
    split: Literal["validation", "all"] = Field("validation", description="Which of the prompts are held out.")
    seed: int = Field(0, description="Seed of the run.")
    evaluations: Path = Field(description="Output: answers (Parquet).")
    check_evaluations: Path = Field(description="Output: checks of the answers (Parquet).")
    judgements: Path = Field(description="Output: judgements of the test set (Parquet).")
    judge_evaluations: Path = Field(description="Output: judged test set (Parquet).")
    meta_evaluations: Path = Field(description="Output: compared judgements (Parquet).")
    summary: Path = Field(description="Output: headline numbers (Parquet).")


def load_oracle(path: Path) -> Oracle:
    """The function `quality(messages, response)` of a Python file that the configuration names, and its `SCALE`, least
    and greatest quality, if it states one. StageError if there is no such file or function."""
    spec = importlib.util.spec_from_file_location("oracle", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise StageError(f"{path}: no such Python file; evaluate.oracle must define quality(messages, response)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "quality"):
        raise StageError(f"{path}: defines no function quality(messages, response)")
    return Oracle(module.quality, Bounds(*getattr(module, "SCALE", UNBOUNDED)))


def summarise(answers: pl.DataFrame, checked: pl.DataFrame, scale: Bounds) -> list[dict[str, Any]]:
    """SUMMARY rows without the model's number, from rows of EVALUATIONS whose quality is on a `scale`, and of
    CHECK_EVALUATIONS."""
    parts = []
    for decoding in ("sample", "greedy"):
        parts += [answer_parts(answers, decoding, scale), followed_parts(checked, decoding)]
    return [row for one in parts for row in estimates(one.values())]


def check(answers: pl.DataFrame, prompts: pl.DataFrame) -> pl.DataFrame:
    """CHECK_EVALUATIONS rows of the answers (rows of EVALUATIONS) to prompts that carry checks."""
    asked = answers.join(prompts.select("prompt_id", "checks").drop_nulls(), on="prompt_id", validate="m:1")
    rows = [
        {**{name: answer[name] for name in EVALUATIONS.key}, "check": one.check, "instruction": one.instruction,
         "strict": one.passed, "loose": loose, "detail": one.detail}
        for answer in asked.iter_rows(named=True)
        for one, loose in zip(outcomes(answer), loosely(answer), strict=True)
    ]  # fmt: skip
    return frame(tables.CHECK_EVALUATIONS, rows)


def judge_scores(tests: pl.DataFrame, asked: pl.DataFrame, votes: pl.DataFrame, settings: ScoreSection) -> pl.DataFrame:
    """JUDGE_EVALUATIONS rows of all test answers, scored as the loop scores candidates; without a score, those that the
    judge was not `asked` (rows of JUDGE_PROMPTS) about, and with `exclude_shortened` those of which it saw a part."""
    shortened = asked.filter(pl.col("shortened") & settings.exclude_shortened)
    scored = scores(votes, passed_shares(frame(tables.VERIFICATIONS, [])), shortened, settings)
    first = votes.filter(pl.col("vote") == 0).select(*JUDGE_TESTS.key, first_score="score")
    return (
        tests.select(*JUDGE_TESTS.key, "rank", "quality")
        .join(scored.select(*JUDGE_TESTS.key, "score", "valid_votes"), on=JUDGE_TESTS.key, how="left", validate="1:1")
        .join(first, on=JUDGE_TESTS.key, how="left", validate="1:1")
        .with_columns(pl.col("valid_votes").fill_null(0))
    )


def _inputs(args: Args) -> list[Path]:
    """The files that decide the outcome, beside the model."""
    meta_template = args.meta_judge.template if args.meta_comparisons else None
    files = (args.pool, args.judge.template, meta_template, args.judge_tests, args.oracle)
    return [path for path in files if path]


def _answer(args: Args, generator: Generator, prompts: pl.DataFrame, oracle: Oracle | None) -> pl.DataFrame:
    """EVALUATIONS rows for both decodings."""
    inputs = actor_inputs(prompts, generator.chat)
    parts = []
    for decoding, sampling, samples in (("sample", args.sampling, args.samples), ("greedy", _greedy(args.sampling), 1)):
        requests = evaluation_requests(inputs, samples, _seeds(args))
        completions = generator.complete(requests, sampling, _journal(args, decoding))
        parts.append(completions.with_columns(decoding=pl.lit(decoding)))
    answers = pl.concat(parts)
    return answers.with_columns(pl.Series("quality", _qualities(answers, oracle), dtype=pl.Float64))


def _qualities(answers: pl.DataFrame, oracle: Oracle | None) -> list[float | None]:
    """What the oracle says of each answer; StageError if that is not on its own scale."""
    if oracle is None:
        return [None] * answers.height
    given = [
        oracle.quality(messages, answer_of(text)) for messages, text in answers.select("messages", "text").iter_rows()
    ]
    low, high = oracle.scale
    for value in given:
        if not low <= value <= high:
            raise StageError(f"evaluate.oracle gives an answer the quality {value:g}; its SCALE is {low:g} to {high:g}")
    return [*given]


def evaluation_requests(inputs: pl.DataFrame, samples: int, seeds: Seeds) -> pl.DataFrame:
    """One request per held-out prompt (rows of CANDIDATE_PROMPTS) and sample."""
    rows = [
        (prompt, sample, f"{prompt}-{sample}", seeds.of("evaluate", prompt, sample))
        for prompt in inputs["prompt_id"]
        for sample in range(samples)
    ]
    keys = pl.DataFrame(rows, schema=["prompt_id", "sample", "request_id", "seed"], orient="row")
    shown = inputs.select("prompt_id", "messages", prompt_token_ids="token_ids")
    return keys.join(shown, on="prompt_id", validate="m:1")


def _held_out(args: Args) -> pl.DataFrame:
    """The prompts to answer."""
    pool = read(args.pool, tables.PROMPTS)
    prompts = pool if args.split == "all" else pool.filter(pl.col("split") == "validation")
    if prompts.is_empty():
        raise StageError(
            f"{args.pool}: none of the {pool.height} prompts is held out; set evaluate.prompts, or a larger "
            "ingest.validation_fraction"
        )
    return prompts.sort("prompt_id").head(args.max_prompts or prompts.height)


def _judge(args: Args, generator: Generator, tests: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """JUDGE_PROMPTS and JUDGEMENTS rows of the test answers."""
    if tests.is_empty():
        return frame(tables.JUDGE_PROMPTS, []), frame(tables.JUDGEMENTS, [])
    template = load_template(args.judge.template, JUDGE_VARIABLES)
    inputs = judge_inputs(tests, template, generator.chat, generator.prompt_limit(args.judge.sampling))
    unseen, cut = tests.height - inputs.height, inputs["shortened"].sum()
    print(f"evaluate: of {tests.height} test answers {unseen} too long to be judged, {cut} shortened", file=sys.stderr)
    requests = judge_requests(inputs, range(args.judge_votes), _seeds(args))
    return inputs, generator.complete(requests, args.judge.sampling, args.judgements)


def _compare(
    args: Args, generator: Generator, tests: pl.DataFrame, judgements: pl.DataFrame, errors: pl.DataFrame
) -> pl.DataFrame:
    """META_EVALUATIONS rows: the model as judge of its judgements, where it is known which one is better."""
    hidden = shown_to_meta_judge(judgements, args.score.pattern if args.meta_judge.hide_scores else None)
    pairs = known_comparisons(errors, hidden, args.meta_comparisons, _seeds(args))
    if pairs.is_empty():
        return frame(tables.META_EVALUATIONS, [])
    responses = tests.select("candidate_id", "messages", response="text")
    shown = pairs.join(responses, on="candidate_id", how="left", validate="m:1")
    template = load_template(args.meta_judge.template, META_JUDGE_VARIABLES)
    sampling = args.meta_judge.sampling
    every = meta_judge_inputs(shown, template, generator.chat)
    inputs = fitting(every, generator.prompt_limit(sampling))
    if every.height > inputs.height:
        print(f"evaluate: {every.height - inputs.height} over-long comparisons skipped", file=sys.stderr)
    requests = meta_judge_requests(inputs, _seeds(args))
    verdicts = generator.complete(requests, sampling, args.meta_evaluations)
    winners = parse_battles(verdicts, args.rate.pattern).drop("parse_status")
    known = pairs.select(*VERDICTS.key, "better").join(winners, on=VERDICTS.key, validate="1:1")
    return verdicts.join(known, on=VERDICTS.key, validate="1:1")


def _seeds(args: Args) -> Seeds:
    """The same for every model of a run: what differs is the model."""
    return Seeds(args.seed, 0)


def _journal(args: Args, decoding: str) -> Path:
    """Where the journal of a decoding lives: beside the output that both decodings share."""
    return args.evaluations.with_name(f"{decoding}.parquet")


def _greedy(sampling: Sampling) -> Sampling:
    return sampling.model_copy(update={"temperature": 0.0, "top_p": 1.0, "top_k": 0})


def main(args: Args) -> None:
    """Answer, judge, compare, summarise."""
    oracle = load_oracle(args.oracle) if args.oracle else None
    tests = read(args.judge_tests, JUDGE_TESTS) if args.judge_tests else frame(JUDGE_TESTS, [])
    tests = tests.with_columns(answers_of(tests["text"]))
    with Generator(args.model, args.engine, args.chat) as generator:
        prompts = _held_out(args)
        answers = _answer(args, generator, prompts, oracle)
        asked, judgements = _judge(args, generator, tests)
        votes = parse_votes(judgements, args.score)
        judged = judge_scores(tests, asked, votes, args.score)
        compared = _compare(args, generator, tests, judgements, vote_errors(votes, judged, args.score))
    scale = oracle.scale if oracle else UNBOUNDED
    checked = check(answers, prompts)
    rows = [*summarise(answers, checked, scale), *judge_metrics(judged, votes, args.score), *meta_metrics(compared)]
    numbers = frame(tables.SUMMARY, [{"model": args.number, **row} for row in rows])
    origin = describe("evaluate", args, _inputs(args), seed=args.seed, **generator.facts)
    write(answers, args.evaluations, tables.EVALUATIONS, origin)
    write(checked, args.check_evaluations, tables.CHECK_EVALUATIONS, origin)
    write(judgements, args.judgements, tables.JUDGEMENTS, origin)
    write(judged, args.judge_evaluations, tables.JUDGE_EVALUATIONS, origin)
    write(compared, args.meta_evaluations, tables.META_EVALUATIONS, origin)
    write(numbers, args.summary, tables.SUMMARY, origin)
    for output in (_journal(args, "sample"), _journal(args, "greedy"), args.judgements, args.meta_evaluations):
        remove_journals(output)
    print(", ".join(f"{row['metric']} {row['value']:.3f}" for row in numbers.iter_rows(named=True)), file=sys.stderr)


if __name__ == "__main__":
    run(Args, main)
