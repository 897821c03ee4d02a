"""A run at a glance: its iterations and models, its tables and their sizes, its headline numbers, what is missing."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import polars as pl

from stages.contracts.errors import StageError
from stages.contracts.files import load_json
from stages.contracts.schema import frame
from stages.inspection.parquet import described, files
from stages.inspection.run_folder import OF_AN_ITERATION, OF_EFT, OF_THE_POOL, Place, RunFolder, by_number
from stages.tables import SUMMARY

Document = dict[str, Any]


def overview(run: RunFolder) -> Document:
    """What there is in a run's folder; keys as in docs/inspecting.md."""
    models = _models(run.path)
    summaries = pl.concat([frame(SUMMARY, []), *(run.summary(name) for name in run.evaluated())])
    return {
        "kind": "run",
        "path": str(run.path),
        "iterations": list(run.iterations),
        "models": models,
        "tables": _tables(run),
        "headline": summaries.sort("model", "metric").to_dicts(),
        "missing": _missing(run, {model["model"] for model in models}),
    }


def _models(folder: Path) -> list[Document]:
    """The complete models, with the digests of their content."""
    names = by_number(path.parent.name for path in folder.glob("models/*/manifest.json"))
    digests = [load_json(folder / "models" / name / "manifest.json", "")["digest"] for name in names]
    evaluated = [(folder / "evaluation" / name / "summary.parquet").is_file() for name in names]
    return [
        {"model": name, "digest": digest, "evaluated": measured}
        for name, digest, measured in zip(names, digests, evaluated, strict=True)
    ]


def _tables(run: RunFolder) -> list[Document]:
    """Every table with its number of files and rows, and a word on files that cannot be read."""
    folders = [run.path / "prompts", run.path / "eft", *map(run.folder, run.iterations), run.path / "evaluation"]
    found: dict[str, list[Path]] = defaultdict(list)
    for folder in folders:
        for path in sorted(folder.rglob("*.parquet")):
            inner = path.relative_to(run.path)
            if not any(part.startswith(".") for part in inner.parts):
                found[str(inner.parent if path.name[:3].isdecimal() else inner)].append(path)
    return [_table(place, paths) for place, paths in found.items()]


def _table(place: str, paths: list[Path]) -> Document:
    facts: Document = {"place": place, "table": None, "files": len(paths), "rows": 0, "problem": None}
    for path in paths:
        try:
            part = described(path)
            facts |= {"table": part.table or None, "rows": facts["rows"] + part.rows}
        except StageError as error:
            facts["problem"] = str(error)
    return facts


def _missing(run: RunFolder, models: set[str]) -> list[Document]:
    """What the stages of begun iterations have not made yet, in the order in which they would."""
    begun = [(run.path / "prompts", OF_THE_POOL, 0), *([(run.folder(0), OF_EFT, _shards(run, 0))] if run.has_eft else [])]
    begun += [(run.folder(number), OF_AN_ITERATION, _shards(run, number)) for number in run.iterations]
    found = []
    for folder, places, shards in begun:
        parts = {place.part for name, place in places.items() if files(folder / name)} | {""}
        for name, place in places.items():
            if place.part in parts:
                found += [{"place": str((folder / lacking).relative_to(run.path)), "stage": place.stage}
                          for lacking in _lacking(folder, name, shards)]  # fmt: skip
    wanted = [("0", "base_model"), *((str(number), "train") for number in run.iterations)]
    found += [{"place": f"models/{name}", "stage": stage} for name, stage in wanted if name not in models]
    unmeasured = by_number(models - {*run.evaluated(), "ift"})
    return [*found, *({"place": f"evaluation/{name}", "stage": "evaluate"} for name in unmeasured)]


def _shards(run: RunFolder, iteration: int) -> int:
    """Into how many shards an iteration is cut, by what its first files say."""
    for name in ("candidates", "creations"):
        for path in files(run.folder(iteration) / name):
            return int(described(path).provenance.get("settings", {}).get("shards", 1))
    return len(files(run.folder(iteration) / "answers"))


def _lacking(folder: Path, name: str, shards: int) -> list[str]:
    """The files of a table that are not there."""
    if name.endswith(".parquet"):
        return [] if (folder / name).is_file() else [name]
    there = {path.name[:3] for path in files(folder / name)}
    return [f"{name}/{number}" for shard in range(max(shards, 1)) if (number := f"{shard:03d}") not in there]
