"""What an earlier run had: mean lengths from its tables, shares, and rates from its clocks."""

from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl
from pydantic import ValidationError

from stages.config import EngineSettings, MegatronSettings
from stages.contracts.errors import StageError
from stages.forecast.earlier_shares import earlier_shares
from stages.forecast.means import Means
from stages.forecast.rates import Rates
from stages.inspection.parquet import described, files, rows
from stages.inspection.run_folder import OF_AN_ITERATION, RunFolder

GENERATING = {
    "create": "iter-*/creations",
    "candidates": "iter-*/candidates",
    "judge": "iter-*/judgements",
    "meta_judge": "iter-*/verdicts",
    "eft_judge": "eft/judgements",
}
"""Rules and where what they generate lies."""
CLOCKS = {"eft_judge": "eft/judge-*.tsv", "sft": "eft/sft-*.tsv"}
"""Where Snakemake's benchmarks of a rule lie, if not in a folder of its name."""


def earlier_means(run: RunFolder) -> Means:
    """Mean lengths, over all iterations that the run has."""
    generated = {rule: _mean(run, place, "tokens") for rule, place in GENERATING.items()}
    judgement = generated["judge"]
    return Means(
        prompt=_mean(run, "iter-*/candidate_prompts", "token_ids"),
        response=generated["candidates"],
        judge_prompt=_mean(run, "iter-*/judge_prompts", "token_ids") or _mean(run, "eft/judge_prompts", "token_ids"),
        judgement=generated["eft_judge"] if judgement is None else judgement,
        meta_judge_prompt=_mean(run, "iter-*/meta_judge_prompts", "token_ids"),
        verdict=generated["meta_judge"],
        creation=generated["create"],
        shares=earlier_shares(run),
    )


def earlier_rates(run: RunFolder) -> Rates:
    """Tokens per second and device by rule: generated tokens over the seconds of the jobs, their starts included; in
    training the tokens of its steps over their seconds. A job that was killed and went on looks faster than it is."""
    measured = {rule: _generation(run, rule, place) for rule, place in GENERATING.items()}
    measured |= {"train": _training(run, "iter-*/train"), "sft": _training(run, "eft/train/*")}
    return Rates(measured={rule: rate for rule, rate in measured.items() if rate})


def _mean(run: RunFolder, place: str, column: str) -> float | None:
    """Mean of the numbers of a column, or of the lengths of its lists; rows without any were not asked."""
    values = _values(run, place, column)
    values = values.list.len() if values.dtype == pl.List else values
    asked = values.filter(values > 0)
    return asked.sum() / asked.len() if asked.len() else None


def _values(run: RunFolder, place: str, column: str) -> pl.Series:
    """A column of a table, over all iterations."""
    found = [rows([path], OF_AN_ITERATION[path.parent.name].table, [column]) for path in _files(run, place)]
    return pl.concat(found)[column] if found else pl.Series(column, [], pl.Int64)


def _files(run: RunFolder, place: str) -> list[Path]:
    return [path for folder in sorted(run.path.glob(place)) for path in files(folder)]


def _generation(run: RunFolder, rule: str, place: str) -> float | None:
    found = _files(run, place)
    seconds = _seconds(run, rule)
    if not found or not seconds:
        return None
    tokens = float(_values(run, place, "tokens").sum())
    engine = _settings(found[0], "engine", EngineSettings)
    return tokens / seconds / max(1, engine.used.gpus)


def _training(run: RunFolder, place: str) -> float | None:
    """Mean over the trainings of tokens / seconds / ranks."""
    found = []
    for path in sorted(run.path.glob(f"{place}/speed.parquet")):
        speed = rows([path], OF_AN_ITERATION["train/speed.parquet"].table)
        seconds, rate = (speed.filter(metric=name).sort("step")["value"] for name in ("seconds", "tokens_per_second"))
        layout = _settings(path, "megatron", MegatronSettings)
        if seconds.len():
            found.append((seconds * rate).sum() / seconds.sum() / (layout.processes * layout.nodes))
    return fmean(found) if found else None


def _seconds(run: RunFolder, rule: str) -> float:
    """Seconds of all jobs of a rule that have ended."""
    paths = sorted((run.path / "benchmarks").glob(CLOCKS.get(rule, f"{rule}/*.tsv")))
    try:
        return sum(pl.read_csv(path, separator="\t", columns=["s"])["s"].cast(pl.Float64).sum() for path in paths)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StageError(f"{run.path}: a benchmark of {rule} cannot be read: {str(error).splitlines()[0]}") from error


def _settings(path: Path, section: str, form: Any) -> Any:
    """Settings that a file was made with; defaults for what another version had no word for."""
    given = described(path).provenance.get("settings", {}).get(section, {})
    try:
        return form.model_validate({name: value for name, value in given.items() if name in form.model_fields})
    except ValidationError:
        raise StageError(f"{path}: its settings of section {section} are not of this version: state the rates") from None
