"""Measure one model: its answers to held-out prompts, and its judgement of answers whose quality is known.

Reads   a model, held-out prompts, and optionally the judge's test set and an oracle (a Python file).
Does    answers each prompt once by sampling and once greedily, with the same seeds for every model of a run; judges the
        test set as the loop judges candidates.
Writes  the answers (EVALUATIONS), the judged test set (JUDGE_EVALUATIONS), and headline numbers (SUMMARY).
"""

import importlib.util
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from stages import tables
from stages.algorithms.aggregation import aggregate
from stages.algorithms.statistics import mean_interval, pairwise_accuracy
from stages.artifacts import frame, read, write
from stages.candidates import candidate_inputs
from stages.chat import ChatTokenizer
from stages.cli import run
from stages.config import EngineSettings, EvaluateSection, JudgeSection, Sampling, ScoreSection
from stages.engines import Engine, open_engine
from stages.errors import StageError
from stages.generation import generate, remove_journals
from stages.ids import Message, prompt_id, seed_for
from stages.judge import ask, judge_inputs
from stages.provenance import describe, model_digest
from stages.score import parse
from stages.templates import load_template

Oracle = Callable[[list[Message], str], float]


class Args(EvaluateSection):
    """Flags of this stage."""

    engine: EngineSettings = Field(EngineSettings(), description="Generation engine.")
    judge: JudgeSection = Field(JudgeSection(), description="How the model judges.")
    score: ScoreSection = Field(ScoreSection(), description="How judgements are read.")
    model: Path = Field(description="Hugging Face directory of the model.")
    number: int = Field(description="Number of the model: 0 is the base.")
    pool: Path = Field(description="Prompts (Parquet): the validation split, or all if there is none.")
    seed: int = Field(0, description="Seed of the run.")
    responses: Path = Field(description="Output: answers (Parquet).")
    judge_responses: Path = Field(description="Output: judged test set (Parquet).")
    summary: Path = Field(description="Output: headline numbers (Parquet).")


def main(args: Args) -> None:
    """Answer, judge, summarise."""
    weights = model_digest(args.model)
    inputs = [path for path in (args.pool, args.judge.template, args.judge_tests, args.oracle) if path]
    origin = describe("evaluate", args, inputs, model=weights, seed=args.seed)
    oracle = load_oracle(args.oracle) if args.oracle else None
    with open_engine(args.model, args.engine) as engine:
        answers = _answer(args, engine, weights, oracle)
        judged = _judge(args, engine, weights)
    write(answers, args.responses, tables.EVALUATIONS, origin)
    write(judged, args.judge_responses, tables.JUDGE_EVALUATIONS, origin)
    numbers = frame(tables.SUMMARY, [{"model": args.number, **row} for row in summarise(answers, judged)])
    write(numbers, args.summary, tables.SUMMARY, origin)
    for output in (_journal(args, "sample"), _journal(args, "greedy"), args.judge_responses):
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


def summarise(answers: pl.DataFrame, judged: pl.DataFrame) -> list[dict[str, Any]]:
    """SUMMARY rows without the model's number, from rows of EVALUATIONS and JUDGE_EVALUATIONS.

    A test response whose judgements did not parse takes the lowest place: the judge failed on it.
    """
    sampled, greedy = (answers.filter(pl.col("decoding") == name) for name in ("sample", "greedy"))
    columns = {
        "tokens": sampled["tokens"],
        "quality": sampled["quality"].drop_nulls(),
        "quality_greedy": greedy["quality"].drop_nulls(),
        "judge_exact": (judged["first_score"] == judged["quality"]).fill_null(False),
        "judge_score": judged["score"].drop_nulls(),
    }
    rows = [
        {"metric": name, "n": len(values), **_interval(mean_interval(values.cast(pl.Float64).to_numpy()))}
        for name, values in columns.items()
        if len(values)
    ]
    if judged["quality"].n_unique() > 1:
        scores = judged["score"].fill_null(float("-inf")).to_numpy()
        accuracy = pairwise_accuracy(np.nan_to_num(scores, neginf=-1e9), judged["quality"].to_numpy())
        rows.append({"metric": "judge_accuracy", "n": judged.height, **_interval(accuracy)})
    return rows


def _interval(numbers: tuple[float, float, float]) -> dict[str, float | None]:
    value, low, high = (None if number != number else number for number in numbers)
    return {"value": value, "low": low, "high": high}


def _answer(args: Args, engine: Engine, weights: str, oracle: Oracle | None) -> pl.DataFrame:
    """EVALUATIONS rows for both decodings."""
    pool = read(args.pool, tables.PROMPTS)
    held_out = pool.filter(pl.col("split") == "validation")
    prompts = (held_out if held_out.height else pool).sort("prompt_id").head(args.max_prompts or pool.height)
    inputs = candidate_inputs(prompts, ChatTokenizer(args.model))
    seeds = [seed_for(args.seed, 0, "evaluate", prompt) for prompt in inputs["prompt_id"]]
    asked = inputs.select("prompt_id", "messages", request_id="prompt_id", prompt_token_ids="token_ids").with_columns(
        pl.Series("seed", seeds, dtype=pl.Int64)
    )
    parts = []
    for decoding, sampling in (("sample", args.sampling), ("greedy", _greedy(args.sampling))):
        journal = _journal(args, decoding)
        answers = generate(asked, sampling, args.engine, weights, lambda: nullcontext(engine), journal)
        parts.append(answers.with_columns(decoding=pl.lit(decoding)))
    answers = pl.concat(parts)
    quality = [
        oracle(messages, text) if oracle else None for messages, text in answers.select("messages", "text").iter_rows()
    ]
    return answers.with_columns(pl.Series("quality", quality, dtype=pl.Float64))


def _judge(args: Args, engine: Engine, weights: str) -> pl.DataFrame:
    """JUDGE_EVALUATIONS rows; none without a test set."""
    if args.judge_tests is None:
        return frame(tables.JUDGE_EVALUATIONS, [])
    tests = read(args.judge_tests, tables.JUDGE_TESTS)
    keys = [prompt_id(messages) for messages in tests["messages"]]
    responses = tests.select("messages", candidate_id="example_id", text="response").with_columns(
        pl.Series("prompt_id", keys)
    )
    template = load_template(args.judge.template, {"conversation", "response"})
    limit = args.engine.max_sequence_length - args.judge.sampling.max_tokens
    asked = ask(judge_inputs(responses, template, ChatTokenizer(args.model), limit), args.judge_votes, args.seed, 0)
    judgements = generate(
        asked, args.judge.sampling, args.engine, weights, lambda: nullcontext(engine), args.judge_responses
    )
    votes = parse(judgements, args.score)
    first = votes.filter(pl.col("vote") == 0).select("candidate_id", first_score="score")
    scores = aggregate(votes, args.score.aggregate, args.score.min_votes).join(first, on="candidate_id", how="left")
    return scores.join(tests.select(candidate_id="example_id", quality="quality"), on="candidate_id").rename(
        {"candidate_id": "example_id"}
    )


def _journal(args: Args, decoding: str) -> Path:
    """Where the journal of a decoding lives: beside the output that both decodings share."""
    return args.responses.with_name(f"{decoding}.parquet")


def _greedy(sampling: Sampling) -> Sampling:
    return sampling.model_copy(update={"temperature": 0.0, "top_p": 1.0, "top_k": 0})


if __name__ == "__main__":
    run(Args, main)
