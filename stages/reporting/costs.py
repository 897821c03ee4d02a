"""What the stages of a run took: the clocks that Snakemake keeps beside its jobs in, a table of text cells out."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import polars as pl

from stages.contracts.errors import StageError
from stages.reporting.grids import Grid

EFT = {"judge": "eft_judge", "score": "eft_score"}
"""Rules of EFT whose clocks lie in `eft/` by the name of the stage that they run."""
NOTE = (
    "Time: of all jobs, as if one after the other. Memory: the most that the processes of a job held, without that of "
    "GPUs. Tokens/s: generated tokens over the time of the jobs (training: those of its steps over theirs), a device: "
    "a GPU, or a job's or rank's share of the CPU. An evaluation's verdicts take time, but their tokens do not count."
)


def clocks(run: Path) -> pl.DataFrame:
    """`stage`, `seconds` and `memory` (MiB; null where a job was too short to tell) of each job that has ended, but for
    reports written before.

    Raises StageError for a file that is no benchmark of Snakemake.
    """
    folder = run / "benchmarks"
    schema = {"stage": pl.String, "seconds": pl.Float64, "memory": pl.Float64}
    parts = [pl.DataFrame(schema=schema)]
    for path in sorted(folder.rglob("*.tsv")):
        stage = pl.lit(_stage(path.relative_to(folder)))
        parts.append(_clock(path).select(stage.alias("stage"), "seconds", "memory"))
    return pl.concat(parts).filter(pl.col("stage") != "report")


def cost_grids(jobs: pl.DataFrame, rates: Mapping[str, float]) -> list[Grid]:
    """Time, memory and speed of each stage, the longest first, from `clocks` and tokens per second by stage; nothing of
    a run whose stages ran without Snakemake."""
    total = jobs["seconds"].sum()
    sums = jobs.group_by("stage").agg(pl.len().alias("jobs"), pl.col("seconds").sum(), pl.col("memory").max())
    rows = [
        [
            stage,
            str(number),
            str(timedelta(seconds=round(seconds))),
            f"{seconds / total:.1%}",
            "" if memory is None else f"{memory / 1024:.2f} GiB",
            f"{rates[stage]:,.0f}" if stage in rates else "",
        ]
        for stage, number, seconds, memory in sums.sort("seconds", "stage", descending=[True, False]).iter_rows()
    ]
    head = ["Stage", "Jobs", "Time", "Of all", "Peak memory", "Tokens/s"]
    return [Grid("Cost", "By stage", NOTE, head, rows)] if rows else []


def _clock(path: Path) -> pl.DataFrame:
    """`seconds` and `memory` of a job, a row for each time that it was measured."""
    try:
        rows = pl.read_csv(path, separator="\t", columns=["s", "max_rss"], infer_schema=False)
        memory = pl.col("max_rss").cast(pl.Float64, strict=False)
        return rows.select(seconds=pl.col("s").cast(pl.Float64), memory=pl.when(memory > 0).then(memory))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StageError(f"{path}: not a benchmark of Snakemake: {str(error).splitlines()[0]}") from error


def _stage(path: Path) -> str:
    """The rule whose clock lies there: `judge/1-000.tsv`, `eft/judge-000.tsv`, `ingest.tsv`."""
    if path.parts[0] != "eft":
        return path.parts[0].removesuffix(".tsv")
    name = path.stem.partition("-")[0]
    return EFT.get(name, name)
