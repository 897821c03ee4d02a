"""What an earlier run had: mean lengths from its tables, shares, and rates from its clocks."""

from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import polars as pl
from pydantic import ValidationError

from stages import tables
from stages.config import EngineSettings, MegatronSettings
from stages.contracts.errors import StageError
from stages.contracts.schema import Table
from stages.forecast.earlier_shares import earlier_shares
from stages.forecast.means import Means
from stages.inspection.parquet import files
from stages.inspection.run_folder import RunFolder


class Place(NamedTuple):
    """Files of a table in a run's folder, or folders of its shards."""

    pattern: str
    table: Table


GENERATING = {
    "create": [Place("iter-*/creations", tables.CREATIONS)],
    "candidates": [Place("iter-*/candidates", tables.CANDIDATES)],
    "judge": [Place("iter-*/judgements", tables.JUDGEMENTS)],
    "meta_judge": [Place("iter-*/verdicts", tables.VERDICTS)],
    "eft_judge": [Place("eft/judgements", tables.JUDGEMENTS)],
    "evaluate": [
        Place("evaluation/*/evaluations.parquet", tables.EVALUATIONS),
        Place("evaluation/*/judgements.parquet", tables.JUDGEMENTS),
    ],
}
"""What the rules generate. Verdicts of an evaluation come without their length: it looks slower than it is."""
INPUTS = {
    "prompt": [Place("iter-*/candidate_prompts", tables.CANDIDATE_PROMPTS)],
    "judge_prompt": [
        Place("iter-*/judge_prompts", tables.JUDGE_PROMPTS),
        Place("eft/judge_prompts", tables.JUDGE_PROMPTS),
    ],
    "meta_judge_prompt": [Place("iter-*/meta_judge_prompts", tables.META_JUDGE_PROMPTS)],
}
"""What the model was given, by the mean's name."""
CLOCKS = {"eft_judge": "eft/judge-*.tsv", "sft": "eft/sft-*.tsv"}
"""Where Snakemake's benchmarks of a rule lie, if not in a folder of its name."""


def earlier_means(run: RunFolder) -> Means:
    """Mean lengths, over all iterations that the run has, and shares."""
    given = {name: _mean(run, places, "token_ids") for name, places in INPUTS.items()}
    return Means(
        **given,
        response=_mean(run, GENERATING["candidates"], "tokens"),
        judgement=_mean(run, GENERATING["judge"] + GENERATING["eft_judge"], "tokens"),
        verdict=_mean(run, GENERATING["meta_judge"], "tokens"),
        creation=_mean(run, GENERATING["create"], "tokens"),
        shares=earlier_shares(run),
    )


def earlier_rates(run: RunFolder) -> dict[str, float]:
    """Tokens per second and device by rule: generated tokens over the seconds of the jobs, their starts included; in
    training the tokens of its steps over their seconds. A job that was killed and went on looks faster than it is."""
    measured = {rule: _generation(run, rule, places) for rule, places in GENERATING.items()}
    measured |= {"train": _training(run, "iter-*/train"), "sft": _training(run, "eft/train/*")}
    return {rule: rate for rule, rate in measured.items() if rate}


def _mean(run: RunFolder, places: list[Place], column: str) -> float | None:
    """Mean of the numbers of a column, or of the lengths of its lists; rows without any were not asked."""
    values = _values(run, places, column)
    values = values.list.len() if values.dtype == pl.List else values
    asked = values.filter(values > 0)
    return float(asked.sum()) / asked.len() if asked.len() else None


def _values(run: RunFolder, places: list[Place], column: str) -> pl.Series:
    """A column of tables, over all iterations."""
    found = [
        run.rows_of(str(path.relative_to(run.path)), place.table, [column])
        for place in places
        for path in _files(run, place)
    ]
    return pl.concat(found)[column] if found else pl.Series(column, [], pl.Int64)


def _files(run: RunFolder, place: Place) -> list[Path]:
    return [path for folder in sorted(run.path.glob(place.pattern)) for path in files(folder)]


def _generation(run: RunFolder, rule: str, places: list[Place]) -> float | None:
    """Tokens / seconds / GPUs of a job."""
    found, seconds = _files(run, places[0]), _seconds(run, rule)
    if not found or not seconds:
        return None
    engine = _settings(run, found[0], "engine", EngineSettings)
    return float(_values(run, places, "tokens").sum()) / seconds / max(1, engine.used.gpus)


def _training(run: RunFolder, place: str) -> float | None:
    """Mean over the trainings of tokens / seconds / ranks."""
    found = []
    for path in sorted(run.path.glob(f"{place}/speed.parquet")):
        speed = run.rows_of(str(path.relative_to(run.path)), tables.TRAIN_SPEED)
        seconds, rate = (speed.filter(metric=name).sort("step")["value"] for name in ("seconds", "tokens_per_second"))
        layout = _settings(run, path, "megatron", MegatronSettings)
        if seconds.len():
            found.append(float((seconds * rate).sum()) / float(seconds.sum()) / (layout.processes * layout.nodes))
    return fmean(found) if found else None


def _seconds(run: RunFolder, rule: str) -> float:
    """Seconds of all jobs of a rule that have ended."""
    paths = sorted((run.path / "benchmarks").glob(CLOCKS.get(rule, f"{rule}/*.tsv")))
    try:
        clocks = [pl.read_csv(path, separator="\t", columns=["s"])["s"] for path in paths]
        return sum(float(seconds.cast(pl.Float64).sum()) for seconds in clocks)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise StageError(f"{run.path}: a benchmark of {rule} cannot be read: {str(error).splitlines()[0]}") from error


def _settings(run: RunFolder, path: Path, section: str, form: Any) -> Any:
    """Settings that a file was made with; defaults for what another version had no word for."""
    given = run.provenance(path).get("settings", {}).get(section, {})
    try:
        return form.model_validate({name: value for name, value in given.items() if name in form.model_fields})
    except ValidationError:
        raise StageError(
            f"{path}: its settings of section {section} are not of this version: state the rates"
        ) from None
