"""What the stages of a run took: the clocks that Snakemake keeps beside its jobs in, a table of text cells out."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import polars as pl

from stages.contracts.errors import StageError
from stages.reporting.grids import Grid
from stages.reporting.run_files import Source
from stages.tables import TRAIN_SPEED

EFT = {"judge": "eft_judge", "score": "eft_score"}
"""Rules of EFT whose clocks lie in `eft/` by the name of the stage that they run."""
NOTE = (
    "Time: of all jobs, as if one after the other. Memory: the most that the processes of a job held, without that of "
    "GPUs; of a rank: the most that one held in a training, of its GPU if it has one. Tokens/s: generated tokens over "
    "the time of the jobs (training: those of its steps over theirs) and device: a GPU, or a job's or rank's share of "
    "the CPU. An evaluation's verdicts take time, but their tokens do not count."
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


def ranks(source: Source) -> dict[str, float]:
    """The most memory (MiB) that a rank held, of the stages that train."""
    speed = {"train": source.every("train/speed.parquet", TRAIN_SPEED)}
    if source.eft:
        speed["sft"] = source.one(source.run / "eft/train/0/speed.parquet", TRAIN_SPEED)
    peaks = {stage: rows.filter(metric="peak_memory")["value"].max() for stage, rows in speed.items()}
    return {stage: float(peak) for stage, peak in peaks.items() if peak is not None}  # type: ignore[arg-type]


def cost_grids(jobs: pl.DataFrame, rates: Mapping[str, float], ranks: Mapping[str, float]) -> list[Grid]:
    """Time, memory and speed of each stage, the longest first, from `clocks`, tokens per second by stage, and `ranks`;
    nothing of a run whose stages ran without Snakemake."""
    total = jobs["seconds"].sum()
    sums = jobs.group_by("stage").agg(pl.len().alias("jobs"), pl.col("seconds").sum(), pl.col("memory").max())
    rows = [
        [
            stage,
            str(number),
            str(timedelta(seconds=round(seconds))),
            f"{seconds / total:.1%}",
            _gib(memory),
            _gib(ranks.get(stage)),
            f"{rates[stage]:,.0f}" if stage in rates else "",
        ]
        for stage, number, seconds, memory in sums.sort("seconds", "stage", descending=[True, False]).iter_rows()
    ]
    head = ["Stage", "Jobs", "Time", "Of all", "Peak memory", "Of a rank", "Tokens/s"]
    return [Grid("Cost", "By stage", NOTE, head, rows)] if rows else []


def _gib(memory: float | None) -> str:
    return "" if memory is None else f"{memory / 1024:.2f} GiB"


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
