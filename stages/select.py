"""Select: the prompts that one iteration works on.

Reads:  the pool of prompts, the prompts created for this iteration and for earlier ones, and the selections of the
        earlier iterations.
Does:   draws the asked number of train prompts, seeded: this iteration's created ones first, then from all the others;
        a prompt serves in one iteration only unless `reuse` is set.
Writes: the drawn prompts, as the pool (or the table of created prompts) has them.
"""

import sys
from pathlib import Path

import polars as pl
from pydantic import Field

from stages.config import SelectSection, resolve, resolved
from stages.contracts import artifacts
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.ids import Seeds, digest, near_key
from stages.contracts.provenance import describe
from stages.tables import PROMPTS


class Args(SelectSection):
    """Command line of the stage."""

    seed: int = Field(0, ge=0, description="Run seed.")
    iteration: int = Field(ge=1, description="Iteration that the prompts are for, from 1.")
    pool: Path = Field(description="All prompts (Parquet).")
    created: Path | None = Field(None, description="Prompts created for this iteration (Parquet); they come first.")
    created_before: list[Path] = Field([], description="Prompts created for earlier iterations (Parquet).")
    previous: list[Path] = Field([], description="Selections of the earlier iterations (Parquet); needed for no reuse.")
    held_out: list[Path] = Field([], description="Prompts that models are measured on (Parquet): never selected.")
    output: Path = Field(description="Output: the iteration's prompts (Parquet).")


def draw(ids: list[str], count: int, seeds: Seeds) -> list[str]:
    """`count` of the prompt ids (all of them if there are fewer), by a seeded draw without replacement.

    The draw sorts by a hash of seed, iteration and id, so the order of `ids` does not matter, and a smaller `count`
    gives a subset of a larger one's.
    """
    return sorted(ids, key=lambda prompt: (digest("select", *seeds, prompt), prompt))[:count]


def usable_prompts(args: Args) -> pl.DataFrame:
    """Rows of PROMPTS of the train split, each prompt once, with `fresh`: whether it was created for this iteration.

    A prompt that several tables hold is as the first of them has it: the pool, earlier iterations, this one. So a
    created prompt that the pool holds out for validation stays held out. What models are measured on is left out.
    Near twins are one prompt.
    """
    tables = [args.pool, *args.created_before, *([args.created] if args.created else [])]
    prompts = with_near_key(artifacts.read(tables, PROMPTS)).unique("near_key", keep="first", maintain_order=True)
    now = artifacts.read(args.created, PROMPTS, ["prompt_id"])["prompt_id"].to_list() if args.created else []
    measured = with_near_key(artifacts.read(args.held_out, PROMPTS, ["messages"]))
    prompts = prompts.join(measured, on="near_key", how="anti", maintain_order="left").drop("near_key")
    return prompts.filter(split="train").with_columns(fresh=pl.col("prompt_id").is_in(now))


def with_near_key(prompts: pl.DataFrame) -> pl.DataFrame:
    """`prompts` (with their messages) and what near twins among them have in common."""
    return prompts.with_columns(pl.Series("near_key", map(near_key, prompts["messages"].to_list()), pl.String))


def _used(args: Args) -> pl.DataFrame:
    if len(args.previous) != args.iteration - 1:
        raise StageError(
            f"iteration {args.iteration} must exclude the prompts of {args.iteration - 1} earlier selections, but "
            f"--previous names {len(args.previous)}; name them all or set select.reuse: true"
        )
    return artifacts.read(args.previous, PROMPTS, ["prompt_id"])


def _too_few(args: Args, count: int, train: int, left: int) -> str:
    remedy = "lower select.prompts, add data to ingest.sources"
    if left < train:
        remedy += ", or set select.reuse: true"
    return (
        f"{args.pool}: iteration {args.iteration} asks for {count} prompts, but {left} are left "
        f"({train - left} of the {train} train prompts served in earlier iterations); {remedy}"
    )


def main(args: Args) -> None:
    args = resolve(args, args.iteration)
    count, seeds = resolved(args.prompts), Seeds(args.seed, args.iteration)
    train = usable_prompts(args)
    available = train if args.reuse else train.join(_used(args), on="prompt_id", how="anti")
    if available.height < count:
        raise StageError(_too_few(args, count, train.height, available.height))
    fresh = draw(available.filter("fresh")["prompt_id"].to_list(), count, seeds)
    others = available.filter(~pl.col("fresh"))["prompt_id"].to_list()
    chosen = fresh + draw(others, count - len(fresh), seeds)
    selection = available.filter(pl.col("prompt_id").is_in(chosen))
    inputs = [args.pool, *args.created_before, *([args.created] if args.created else []), *args.previous]
    inputs += args.held_out
    origin = describe("select", args, inputs, seed=args.seed, iteration=args.iteration)
    artifacts.write(selection, args.output, PROMPTS, origin)
    print(
        f"select: iteration {args.iteration}: {count} of {available.height} available prompts "
        f"({train.height} in the train split), {len(fresh)} created for this iteration",
        file=sys.stderr,
    )


if __name__ == "__main__":
    run(Args, main)
