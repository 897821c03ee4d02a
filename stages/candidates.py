"""Candidates: K sampled responses to each prompt of the iteration.

Reads:  prompts of the iteration (its shard of them), the model's directory.
Does:   puts each conversation through the chat template and samples `samples` responses, each with its own seed, the
        first `hinted` of them with the prompt's hint. Fails when most responses are cut at `max_tokens`.
Writes: one row per response (CANDIDATES), and the exact model input of each prompt, without its hint
        (CANDIDATE_PROMPTS).
"""

import sys
from pathlib import Path

from pydantic import Field

from stages.algorithms.twins import mark_twins
from stages.config import CandidatesSection, EngineSettings, TemplateSettings
from stages.contracts.artifacts import read, write
from stages.contracts.cli import run
from stages.contracts.gates import gate
from stages.contracts.ids import Seeds, shard_of
from stages.contracts.provenance import describe
from stages.engines.resumable import Generator, publish, summary
from stages.prompting.actor_requests import actor_inputs, actor_requests, hinted, with_hints
from stages.tables import CANDIDATE_PROMPTS, CANDIDATES, PROMPTS


class Args(CandidatesSection):
    """Command line of the stage."""

    chat: TemplateSettings = Field(TemplateSettings(), description="How conversations are rendered.")
    engine: EngineSettings = Field(EngineSettings(), description="Generation engine.")
    model: Path = Field(description="Hugging Face directory of the model that answers.")
    prompts: Path = Field(description="Prompts of the iteration (Parquet).")
    seed: int = Field(0, description="Seed of the run.")
    iteration: int = Field(1, description="Iteration, from 1.")
    shard: int = Field(0, description="Which share of the prompts to work on, from 0.")
    shards: int = Field(1, description="Number of shares.")
    output: Path = Field(description="Output: candidates (Parquet).")
    model_inputs: Path = Field(description="Output: what the model was given (Parquet).")


def main(args: Args) -> None:
    """Encode, sample, write."""
    prompts = read(args.prompts, PROMPTS)
    mine = prompts.filter([shard_of(prompt, args.shards) == args.shard for prompt in prompts["prompt_id"]])
    with Generator(args.model, args.engine, args.chat) as generator:
        inputs = actor_inputs(mine, generator.chat)
        requests = actor_requests(inputs, args.samples, Seeds(args.seed, args.iteration))
        requests = with_hints(requests, actor_inputs(hinted(mine), generator.chat), args.hinted)
        candidates = generator.complete(requests, args.sampling, args.output)
    cut = candidates.filter(finish_reason="length").height
    what = "responses are cut at candidates.sampling.max_tokens"
    gate(cut, candidates.height, args.max_cut_share, what, "raise it, or candidates.max_cut_share")
    facts = {**generator.facts, "seed": args.seed, "iteration": args.iteration}
    origin = describe("candidates", args, [args.prompts], **facts)
    write(inputs, args.model_inputs, CANDIDATE_PROMPTS, origin)
    publish(mark_twins(candidates), args.output, CANDIDATES, origin)
    print(f"candidates: {inputs.height} prompts, {summary(candidates, 'prompt_id')}", file=sys.stderr)


if __name__ == "__main__":
    run(Args, main)
