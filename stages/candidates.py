"""Candidates: K sampled responses to each prompt of the iteration.

Reads   prompts of the iteration (its shard of them), the model's directory.
Does    puts each conversation through the chat template and samples `samples` responses, each with its own seed.
Writes  one row per response (CANDIDATES), and the exact model input of each prompt (CANDIDATE_PROMPTS).
"""

import sys
from pathlib import Path

import polars as pl
from pydantic import Field

from stages.config import CandidatesSection, EngineSettings
from stages.contracts.artifacts import read, write
from stages.contracts.cli import run
from stages.contracts.ids import candidate_id, seed_for, shard_of
from stages.contracts.provenance import describe, model_digest
from stages.engines.protocol import open_engine
from stages.engines.resumable import generate, publish, summary
from stages.prompting.chat import ChatTokenizer
from stages.tables import CANDIDATE_PROMPTS, CANDIDATES, PROMPTS


class Args(CandidatesSection):
    """Flags of this stage."""

    engine: EngineSettings = Field(EngineSettings(), description="Generation engine.")
    model: Path = Field(description="Hugging Face directory of the model that answers.")
    prompts: Path = Field(description="Prompts of the iteration (Parquet).")
    seed: int = Field(0, description="Seed of the run.")
    iteration: int = Field(1, description="Iteration, from 1.")
    shard: int = Field(0, description="Which share of the prompts to work on, from 0.")
    shards: int = Field(1, description="Number of shares.")
    output: Path = Field(description="Output: candidates (Parquet).")
    model_inputs: Path = Field(description="Output: what the model was given (Parquet).")


def candidate_inputs(prompts: pl.DataFrame, chat: ChatTokenizer) -> pl.DataFrame:
    """Rows of CANDIDATE_PROMPTS for rows of PROMPTS."""
    tokens = chat.encode_batch(prompts["messages"].to_list())
    return prompts.select("prompt_id", "messages").with_columns(pl.Series("token_ids", tokens, dtype=pl.List(pl.Int32)))


def ask(inputs: pl.DataFrame, samples: int, seed: int, iteration: int) -> pl.DataFrame:
    """One request per prompt and sample, with the keys of CANDIDATES."""
    keys = [
        (
            prompt,
            key := candidate_id(prompt, iteration, sample),
            key,
            iteration,
            sample,
            seed_for(seed, iteration, "candidates", prompt, sample),
        )
        for prompt in inputs["prompt_id"]
        for sample in range(samples)
    ]
    schema = {
        "prompt_id": pl.String,
        "candidate_id": pl.String,
        "request_id": pl.String,
        "iteration": pl.Int64,
        "sample": pl.Int64,
        "seed": pl.Int64,
    }
    tokens = inputs.select("prompt_id", prompt_token_ids="token_ids")
    return pl.DataFrame(keys, schema=schema, orient="row").join(tokens, on="prompt_id", validate="m:1")


def main(args: Args) -> None:
    """Encode, sample, write."""
    prompts = read(args.prompts, PROMPTS)
    mine = prompts.filter([shard_of(prompt, args.shards) == args.shard for prompt in prompts["prompt_id"]])
    inputs = candidate_inputs(mine, ChatTokenizer(args.model))
    asked = ask(inputs, args.samples, args.seed, args.iteration)
    weights = model_digest(args.model)
    candidates = generate(
        asked, args.sampling, args.engine, weights, lambda: open_engine(args.model, args.engine), args.output
    )
    origin = describe("candidates", args, [args.prompts], model=weights, seed=args.seed, iteration=args.iteration)
    write(inputs, args.model_inputs, CANDIDATE_PROMPTS, origin)
    publish(candidates, args.output, CANDIDATES, origin)
    print(f"candidates: {inputs.height} prompts, {summary(candidates, 'prompt_id')}", file=sys.stderr)


if __name__ == "__main__":
    run(Args, main)
