"""Measure one model: its answers to held-out prompts, its judgement of answers whose ranks are known, and whether it
tells a better judgement of them from a worse one.

Reads   a model, held-out prompts, and optionally the judge's test set and an oracle (a Python file).
Does    answers each prompt by sampling and once greedily, with the same seeds for every model of a run; judges the test
        set as the loop judges candidates; compares pairs of those judgements as the loop's meta-judge does.
Writes  the answers (EVALUATIONS), the judgements of the test set (JUDGEMENTS), its scores (JUDGE_EVALUATIONS), the
        comparisons (META_EVALUATIONS), and headline numbers (SUMMARY).
"""

import importlib.util
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field

from stages import meta_judge, tables
from stages.algorithms.judge_metrics import estimates, judge_metrics, known_comparisons, meta_metrics, vote_errors
from stages.algorithms.parsing import parse_winner, redact
from stages.candidates import candidate_inputs
from stages.config import (
    EngineSettings,
    EvaluateSection,
    JudgeSection,
    MetaJudgeSection,
    RateSection,
    Sampling,
    ScoreSection,
)
from stages.contracts.artifacts import frame, read, write
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.ids import Message, seed_for
from stages.contracts.provenance import describe, model_digest
from stages.engines.protocol import Engine, open_engine
from stages.engines.resumable import generate, remove_journals
from stages.judge import ask, judge_inputs
from stages.prompting.chat import ChatTokenizer
from stages.prompting.templates import JUDGE_VARIABLES, META_JUDGE_VARIABLES, load_template
from stages.score import parse, passed_shares, score

Oracle = Callable[[list[Message], str], float]
Complete = Callable[[pl.DataFrame, Sampling, Path], pl.DataFrame]
"""Asks the model: requests, how to sample, and the file beside which to journal."""

_KEYS = ["prompt_id", "candidate_id"]
_COMPARISON = [*_KEYS, "vote_a", "vote_b"]


class Args(EvaluateSection):
    """Flags of this stage."""

    engine: EngineSettings = Field(EngineSettings(), description="Generation engine.")
    judge: JudgeSection = Field(JudgeSection(), description="How the model judges.")
    score: ScoreSection = Field(ScoreSection(), description="How judgements are read.")
    meta_judge: MetaJudgeSection = Field(MetaJudgeSection(), description="How the model compares judgements.")
    rate: RateSection = Field(RateSection(), description="How its verdicts are read.")
    model: Path = Field(description="Hugging Face directory of the model.")
    number: int = Field(ge=-1, description="Number of the model: 0 starts the loop, -1 is the base model before EFT.")
    pool: Path = Field(description="Prompts (Parquet).")
    split: Literal["validation", "all"] = Field("validation", description="Which of the prompts are held out.")
    seed: int = Field(0, description="Seed of the run.")
    responses: Path = Field(description="Output: answers (Parquet).")
    judgements: Path = Field(description="Output: judgements of the test set (Parquet).")
    judge_responses: Path = Field(description="Output: judged test set (Parquet).")
    meta_responses: Path = Field(description="Output: compared judgements (Parquet).")
    summary: Path = Field(description="Output: headline numbers (Parquet).")


def main(args: Args) -> None:
    """Answer, judge, compare, summarise."""
    weights = model_digest(args.model)
    origin = describe("evaluate", args, _inputs(args), model=weights, seed=args.seed)
    oracle = load_oracle(args.oracle) if args.oracle else None
    with open_engine(args.model, args.engine) as engine:
        complete = _asking(args, engine, weights)
        answers = _answer(args, complete, oracle)
        tests = _tests(args)
        asked, judgements = _judge(args, complete, tests)
        votes = parse(judgements, args.score)
        judged = judge_scores(tests, asked, votes, args.score)
        compared = _compare(args, complete, tests, judgements, vote_errors(votes, judged, args.score))
    rows = [*summarise(answers), *judge_metrics(judged, votes, args.score), *meta_metrics(compared)]
    numbers = frame(tables.SUMMARY, [{"model": args.number, **row} for row in rows])
    write(answers, args.responses, tables.EVALUATIONS, origin)
    write(judgements, args.judgements, tables.JUDGEMENTS, origin)
    write(judged, args.judge_responses, tables.JUDGE_EVALUATIONS, origin)
    write(compared, args.meta_responses, tables.META_EVALUATIONS, origin)
    write(numbers, args.summary, tables.SUMMARY, origin)
    for output in (_journal(args, "sample"), _journal(args, "greedy"), args.judgements, args.meta_responses):
        remove_journals(output)
    print(", ".join(f"{row['metric']} {row['value']:.3f}" for row in numbers.iter_rows(named=True)), file=sys.stderr)


def load_oracle(path: Path) -> Oracle:
    """The function `quality(messages, response)` of a Python file that the configuration names."""
    spec = importlib.util.spec_from_file_location("oracle", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise StageError(f"{path}: no such Python file; evaluate.oracle must define quality(messages, response)")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    oracle: Oracle | None = getattr(module, "quality", None)
    if oracle is None:
        raise StageError(f"{path}: defines no function quality(messages, response)")
    return oracle


def summarise(answers: pl.DataFrame) -> list[dict[str, Any]]:
    """SUMMARY rows without the model's number, from rows of EVALUATIONS."""
    return [
        row
        for decoding, columns in (
            ("sample", {"tokens": "tokens", "quality": "quality"}),
            ("greedy", {"quality_greedy": "quality"}),
        )
        for row in estimates(
            {metric: (float(prompt[column].sum()), prompt[column].count()) for metric, column in columns.items()}
            for prompt in answers.filter(pl.col("decoding") == decoding)
            .sort("prompt_id", "sample")
            .partition_by("prompt_id", maintain_order=True)
        )
    ]


def judge_scores(tests: pl.DataFrame, asked: pl.DataFrame, votes: pl.DataFrame, settings: ScoreSection) -> pl.DataFrame:
    """JUDGE_EVALUATIONS rows of all test answers, scored as the loop scores candidates; without a score, those that the
    judge was not `asked` (rows of JUDGE_PROMPTS) about, and with `exclude_shortened` those of which it saw a part."""
    shortened = asked.filter(pl.col("shortened") & settings.exclude_shortened)
    scores = score(votes, passed_shares(frame(tables.VERIFICATIONS, [])), shortened, settings)
    first = votes.filter(pl.col("vote") == 0).select(*_KEYS, first_score="score")
    return (
        tests.select(*_KEYS, "rank", "quality")
        .join(scores.select(*_KEYS, "score", "valid_votes"), on=_KEYS, how="left", validate="1:1")
        .join(first, on=_KEYS, how="left", validate="1:1")
        .with_columns(pl.col("valid_votes").fill_null(0))
    )


def _inputs(args: Args) -> list[Path]:
    """The files that decide the outcome, beside the model."""
    meta_template = args.meta_judge.template if args.meta_comparisons else None
    files = (args.pool, args.judge.template, meta_template, args.judge_tests, args.oracle)
    return [path for path in files if path]


def _asking(args: Args, engine: Engine, weights: str) -> Complete:
    def complete(asked: pl.DataFrame, sampling: Sampling, output: Path) -> pl.DataFrame:
        return generate(asked, sampling, args.engine, weights, lambda: nullcontext(engine), output)

    return complete


def _answer(args: Args, complete: Complete, oracle: Oracle | None) -> pl.DataFrame:
    """EVALUATIONS rows for both decodings."""
    inputs = candidate_inputs(_held_out(args), ChatTokenizer(args.model))
    parts = [
        complete(_requests(inputs, samples, args.seed), sampling, _journal(args, decoding)).with_columns(
            decoding=pl.lit(decoding)
        )
        for decoding, sampling, samples in (
            ("sample", args.sampling, args.samples),
            ("greedy", _greedy(args.sampling), 1),
        )
    ]
    answers = pl.concat(parts)
    quality = [
        oracle(messages, text) if oracle else None for messages, text in answers.select("messages", "text").iter_rows()
    ]
    return answers.with_columns(pl.Series("quality", quality, dtype=pl.Float64))


def _requests(inputs: pl.DataFrame, samples: int, seed: int) -> pl.DataFrame:
    """One request per prompt and sample."""
    rows = [
        (prompt, sample, f"{prompt}-{sample}", seed_for(seed, 0, "evaluate", prompt, sample))
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


def _tests(args: Args) -> pl.DataFrame:
    """Rows of JUDGE_TESTS; none without a test set."""
    return read(args.judge_tests, tables.JUDGE_TESTS) if args.judge_tests else frame(tables.JUDGE_TESTS, [])


def _judge(args: Args, complete: Complete, tests: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """JUDGE_PROMPTS and JUDGEMENTS rows of the test answers."""
    if tests.is_empty():
        return frame(tables.JUDGE_PROMPTS, []), frame(tables.JUDGEMENTS, [])
    template = load_template(args.judge.template, JUDGE_VARIABLES)
    limit = args.engine.max_sequence_length - args.judge.sampling.max_tokens
    inputs = judge_inputs(tests, template, ChatTokenizer(args.model), limit)
    unseen, cut = tests.height - inputs.height, inputs["shortened"].sum()
    print(f"evaluate: of {tests.height} test answers {unseen} too long to be judged, {cut} shortened", file=sys.stderr)
    return inputs, complete(ask(inputs, args.judge_votes, args.seed, 0), args.judge.sampling, args.judgements)


def _compare(
    args: Args, complete: Complete, tests: pl.DataFrame, judgements: pl.DataFrame, errors: pl.DataFrame
) -> pl.DataFrame:
    """META_EVALUATIONS rows: the model as judge of its judgements, where it is known which one is better."""
    hidden = judgements.select(
        "candidate_id",
        "vote",
        pl.Series("text", [redact(text, args.score.pattern) for text in judgements["text"]], dtype=pl.String),
    )
    pairs = known_comparisons(errors, hidden, args.meta_comparisons, args.seed)
    if pairs.is_empty():
        return frame(tables.META_EVALUATIONS, [])
    shown = pairs.join(
        tests.select("candidate_id", "messages", response="text"), on="candidate_id", how="left", validate="m:1"
    )
    template = load_template(args.meta_judge.template, META_JUDGE_VARIABLES)
    every = meta_judge.meta_judge_inputs(shown, template, ChatTokenizer(args.model))
    inputs = meta_judge.fitting(every, args.engine.max_sequence_length - args.meta_judge.sampling.max_tokens)
    if every.height > inputs.height:
        print(f"evaluate: {every.height - inputs.height} over-long comparisons skipped", file=sys.stderr)
    asked = meta_judge.ask(inputs, args.seed, 0)
    verdicts = complete(asked, args.meta_judge.sampling, args.meta_responses)
    winners = [
        parse_winner(text, finish_reason, args.rate.pattern).value
        for text, finish_reason in verdicts.select("text", "finish_reason").iter_rows()
    ]
    return verdicts.with_columns(pl.Series("winner", winners, dtype=pl.String)).join(
        pairs.select(*_COMPARISON, "better"), on=_COMPARISON, validate="1:1"
    )


def _journal(args: Args, decoding: str) -> Path:
    """Where the journal of a decoding lives: beside the output that both decodings share."""
    return args.responses.with_name(f"{decoding}.parquet")


def _greedy(sampling: Sampling) -> Sampling:
    return sampling.model_copy(update={"temperature": 0.0, "top_p": 1.0, "top_k": 0})


if __name__ == "__main__":
    run(Args, main)
