"""What training reports: rows for its Parquet tables, the same to loggers, and a line per step on stderr."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from stages import tables
from stages.contracts.artifacts import write
from stages.contracts.schema import Table, frame
from stages.training.loggers import MetricSinks

Row = dict[str, Any]


class TrainingLog:
    """Collects rows; a rank without sinks collects them as well, so that any rank can tell them."""

    def __init__(self, sinks: MetricSinks) -> None:
        self._sinks = sinks
        self.rows: dict[str, list[Row]] = {"metrics": [], "speed": [], "samples": []}
        """Rows so far, by table; all a resumed training needs in order to go on."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Add values that a second run gives again."""
        self._add("metrics", step, values)

    def speed(self, step: int, values: Mapping[str, float]) -> None:
        """Add readings of clock and memory."""
        self._add("speed", step, values)

    def samples(self, step: int, rows: list[Row]) -> None:
        """Add rows of table `validation_samples`."""
        self.rows["samples"] += rows
        if rows:
            self._sinks.table("validation/samples", _as_text(frame(tables.VALIDATION_SAMPLES, rows)), step)

    def write(self, metrics: Path, provenance: dict[str, Any]) -> None:
        """Write the tables; speed and samples go beside `metrics`."""
        for name, table in _TABLES.items():
            write(frame(table, self.rows[name]), metrics.with_name(f"{name}.parquet"), table, provenance)

    def _add(self, name: str, step: int, values: Mapping[str, float]) -> None:
        self.rows[name] += [{"step": step, "metric": metric, "value": value} for metric, value in values.items()]
        self._sinks.metrics(values, step)


_TABLES: dict[str, Table] = {
    "metrics": tables.TRAIN_METRICS,
    "speed": tables.TRAIN_SPEED,
    "samples": tables.VALIDATION_SAMPLES,
}


def tell_step(step: int, steps: int, values: Mapping[str, float], seconds: float) -> None:
    """Print one line about a step."""
    accuracy = f"  accuracy {values['accuracy']:.2f}" if "accuracy" in values else ""
    numbers = f"loss {values['loss']:.4f}{accuracy}  gradient {values['gradient_norm']:.2f}  {seconds:.2f} s"
    print(f"step {step}/{steps}  {numbers}", file=sys.stderr, flush=True)


def tell_validation(step: int, values: Mapping[str, float]) -> None:
    """Print one line about a validation."""
    shown = ("validation/loss", "validation/accuracy", "validation/answer_loss")
    numbers = "  ".join(f"{name} {values[name]:.4f}" for name in shown if name in values)
    print(f"after step {step}  {numbers}", file=sys.stderr, flush=True)


def _as_text(samples: pl.DataFrame) -> pl.DataFrame:
    """Samples with each list of messages as one text."""
    turn = pl.format("{}: {}", pl.element().struct.field("role"), pl.element().struct.field("content"))
    texts = [pl.col(name).list.eval(turn).list.join("\n") for name in ("prompt", "chosen", "rejected")]
    return samples.drop("step").with_columns(texts)
