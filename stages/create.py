"""Create: new prompts, written by a model after examples (Self-Instruct; Self-Rewarding, section 3.1).

Reads:  the pool of prompts, the prompts that earlier iterations created, the template, the model's directory.
Does:   asks `count` times for a new task, each time after other examples: `pool_shots` single-turn train prompts of the
        pool and `created_shots` created ones (fewer while there are fewer), drawn and ordered by the request's seed.
Writes: one row per completion (CREATIONS), as it came; `filter_prompts` makes prompts of them. The examples' ids say
        what the model was given.
"""

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl
from pydantic import Field

from stages.config import CreateSettings, EngineSettings, TemplateSettings, resolve, resolved
from stages.contracts.artifacts import read
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.ids import Message, Seeds
from stages.contracts.provenance import describe
from stages.engines.resumable import Generator, publish, summary
from stages.prompting.chat import ChatTokenizer
from stages.prompting.templates import PromptTemplate, load_template
from stages.tables import CREATIONS, PROMPTS, SFT_EXAMPLES

_REQUESTS = pl.Schema(
    {
        "creation_id": pl.String(),
        "request_id": pl.String(),
        "iteration": pl.Int64(),
        "shots": pl.List(pl.String()),
        "seed": pl.Int64(),
        "prompt_token_ids": pl.List(pl.Int32()),
    }
)


class Args(CreateSettings):
    """Command line of the stage."""

    chat: TemplateSettings = Field(TemplateSettings(), description="How conversations are rendered.")
    engine: EngineSettings = Field(EngineSettings(), description="Generation engine.")
    model: Path = Field(description="Hugging Face directory of the model that writes.")
    pool: Path = Field(description="All prompts (Parquet).")
    ift: Path | None = Field(None, description="Instruction data (Parquet): show its prompts, not the pool's.")
    previous: list[Path] = Field([], description="Prompts that earlier iterations created (Parquet).")
    seed: int = Field(0, description="Seed of the run.")
    iteration: int = Field(1, ge=1, description="Iteration, from 1.")
    shard: int = Field(0, description="Which share of the requests to work on, from 0.")
    shards: int = Field(1, description="Number of shares.")
    output: Path = Field(description="Output: creations (Parquet).")


class Example(NamedTuple):
    """A prompt to show."""

    prompt_id: str
    text: str


class Input(NamedTuple):
    """What one request gives the model."""

    shots: list[Example]
    tokens: list[int]


def creation_id(iteration: int, number: int) -> str:
    """Key of a creation; `number` counts from 1. Keys of an iteration sort by number."""
    return f"{iteration}-{number:06d}"


def examples(prompts: pl.DataFrame) -> list[Example]:
    """The train prompts that are one user turn and nothing else, by id, each once."""
    train = prompts.filter(split="train").unique("prompt_id").sort("prompt_id")
    return [
        Example(prompt, messages[0]["content"])
        for prompt, messages in train.select("prompt_id", "messages").iter_rows()
        if [message["role"] for message in messages] == ["user"]
    ]


def ift_examples(data: pl.DataFrame) -> list[Example]:
    """The prompts of instruction data (rows of SFT_EXAMPLES) that are one user turn and nothing else, by id."""
    return [
        Example(key, messages[0]["content"])
        for key, messages in data.sort("example_id").select("example_id", "messages").iter_rows()
        if [message["role"] for message in messages] == ["user", "assistant"]
    ]


def draw(
    pool: Sequence[Example], created: Sequence[Example], pool_shots: int, created_shots: int, seed: int
) -> list[Example]:
    """The examples of one request, in the order to show them: a function of the seed and of the prompts there are.

    Where fewer prompts were created than asked for, the pool makes up for them.
    """
    source = random.Random(seed)
    new = source.sample(created, min(created_shots, len(created)))
    shots = source.sample(pool, min(pool_shots + created_shots - len(new), len(pool))) + new
    source.shuffle(shots)
    return shots


def fitting(
    shots: dict[int, list[Example]], template: PromptTemplate, chat: ChatTokenizer, limit: int
) -> dict[int, Input]:
    """For each numbered request the examples that fit, and its input tokens, at most `limit`; the last go first.

    Raises StageError naming the prompt that leaves no room for itself.
    """
    fitting: dict[int, Input] = {}
    while shots:
        tokens = chat.encode_batch([_question(template, shown) for shown in shots.values()])
        tried = {number: Input(shown, ids) for (number, shown), ids in zip(shots.items(), tokens, strict=True)}
        fitting |= {number: given for number, given in tried.items() if len(given.tokens) <= limit}
        shots = {number: given.shots[:-1] for number, given in tried.items() if number not in fitting}
        for number, left in shots.items():
            if not left:
                raise StageError(
                    f"prompt {tried[number].shots[0].prompt_id}: as an example it exceeds {limit} tokens by itself; "
                    "raise engine.max_sequence_length, lower create.sampling.max_tokens, shorten the template, or set "
                    "ingest.max_prompt_characters"
                )
    return fitting


def creation_requests(inputs: dict[int, Input], seeds: Seeds) -> pl.DataFrame:
    """One request per creation, with the keys of CREATIONS."""
    rows = [
        {
            "creation_id": creation_id(seeds.iteration, number),
            "request_id": creation_id(seeds.iteration, number),
            "iteration": seeds.iteration,
            "shots": [example.prompt_id for example in given.shots],
            "seed": seeds.of("create", number),
            "prompt_token_ids": given.tokens,
        }
        for number, given in inputs.items()
    ]
    return pl.DataFrame(rows, schema=_REQUESTS)


def _question(template: PromptTemplate, shown: Sequence[Example]) -> list[Message]:
    values: dict[str, Any] = {"examples": [example.text for example in shown]}
    return [{"role": "user", "content": template.render(**values)}]


def main(args: Args) -> None:
    """Draw examples, render, encode, sample, write."""
    args = resolve(args, args.iteration)
    pool = ift_examples(read(args.ift, SFT_EXAMPLES)) if args.ift else examples(read(args.pool, PROMPTS))
    created = examples(read(args.previous, PROMPTS))
    if len(pool) < args.pool_shots:
        raise StageError(
            f"{args.ift or args.pool}: {len(pool)} train prompts are a single user turn, but create.pool_shots asks "
            f"for {args.pool_shots} examples; lower it or add data to ingest.sources"
        )
    template = load_template(args.template, {"examples"})
    seeds = Seeds(args.seed, args.iteration)
    numbers = [n for n in range(1, resolved(args.count) + 1) if n % args.shards == args.shard]
    shots = {n: draw(pool, created, args.pool_shots, args.created_shots, seeds.of("shots", n)) for n in numbers}
    with Generator(args.model, args.engine, args.chat) as generator:
        fitted = fitting(shots, template, generator.chat, generator.prompt_limit(args.sampling))
        creations = generator.complete(creation_requests(fitted, seeds), args.sampling, args.output)
    fewer = sum(len(fitted[n].shots) < len(shots[n]) for n in numbers)
    facts = {**generator.facts, "template": template.digest, "seed": args.seed, "iteration": args.iteration}
    inputs = [args.ift or args.pool, *args.previous]
    publish(creations, args.output, CREATIONS, describe("create", args, inputs, **facts))
    print(f"create: {summary(creations, 'iteration')}, {fewer} with fewer examples for want of room", file=sys.stderr)


if __name__ == "__main__":
    run(Args, main)
