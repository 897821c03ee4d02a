"""Select: the prompts that one iteration works on.

Reads:  the pool of prompts, and the selections of the earlier iterations.
Does:   draws the asked number of train prompts, seeded; a prompt serves in one iteration only unless `reuse` is set.
Writes: the drawn prompts, as the pool has them.
"""

import sys
from pathlib import Path

import polars as pl
from pydantic import Field

from stages import artifacts
from stages.cli import run
from stages.config import SelectSection, at
from stages.errors import StageError
from stages.ids import digest
from stages.provenance import describe
from stages.tables import PROMPTS


class Args(SelectSection):
    """Command line of the stage."""

    seed: int = Field(0, ge=0, description="Run seed.")
    iteration: int = Field(ge=1, description="Iteration that the prompts are for, from 1.")
    pool: Path = Field(description="All prompts (Parquet).")
    previous: list[Path] = Field([], description="Selections of the earlier iterations (Parquet); needed for no reuse.")
    output: Path = Field(description="Output: the iteration's prompts (Parquet).")


def draw(ids: list[str], count: int, seed: int, iteration: int) -> list[str]:
    """`count` of the prompt ids (all of them if there are fewer), by a seeded draw without replacement.

    The draw sorts by a hash of seed, iteration and id, so the order of `ids` does not matter, and a smaller `count`
    gives a subset of a larger one's.
    """
    return sorted(ids, key=lambda prompt: (digest("select", seed, iteration, prompt), prompt))[:count]


def main(args: Args) -> None:
    count = at(args.prompts, args.iteration)
    pool = artifacts.read(args.pool, PROMPTS)
    train = pool.filter(pl.col("split") == "train")
    available = train if args.reuse else train.join(_used(args), on="prompt_id", how="anti")
    if available.height < count:
        raise StageError(_too_few(args, count, train.height, available.height))
    chosen = draw(available["prompt_id"].to_list(), count, args.seed, args.iteration)
    selection = available.filter(pl.col("prompt_id").is_in(chosen))
    origin = describe("select", args, [args.pool, *args.previous], seed=args.seed, iteration=args.iteration)
    artifacts.write(selection, args.output, PROMPTS, origin)
    print(
        f"select: iteration {args.iteration}: {count} of {available.height} available prompts "
        f"({train.height} in the train split)",
        file=sys.stderr,
    )


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


if __name__ == "__main__":
    run(Args, main)
