"""A run at a glance: its iterations and models, its tables and their sizes, its headline numbers, what is missing."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import polars as pl

from stages.contracts.errors import StageError
from stages.contracts.files import load_json
from stages.contracts.schema import frame
from stages.inspection.parquet import described, files
from stages.inspection.run_folder import EFT, OF_AN_ITERATION, OF_EFT, OF_THE_POOL, Place, RunFolder, by_number
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
    digests = [load_json(folder / "models" / name / "manifest.json", "").get("digest") for name in names]
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
    found = _lacking(run, run.path / "prompts", OF_THE_POOL, 0)
    for iteration in [*([EFT] if run.has_eft else []), *run.iterations]:
        places = OF_AN_ITERATION if iteration else OF_EFT
        found += _lacking(run, run.folder(iteration), places, _shards(run, iteration))
    makers = {"0": "train" if run.has_eft else "base_model", **dict.fromkeys(map(str, run.iterations), "train")}
    found += [{"place": f"models/{name}", "stage": stage} for name, stage in makers.items() if name not in models]
    unmeasured = by_number(models - {*run.evaluated(), "ift"})
    return [*found, *({"place": f"evaluation/{name}", "stage": "evaluate"} for name in unmeasured)]


def _shards(run: RunFolder, iteration: int) -> int:
    """Into how many shards an iteration is cut, by what its first files say; 0 where they do not say it yet."""
    for name in ("candidates", "creations"):
        for path in files(run.folder(iteration) / name):
            return int(run.provenance(path).get("settings", {}).get("shards", 0))
    return len(files(run.folder(iteration) / "answers"))


def _lacking(run: RunFolder, folder: Path, places: dict[str, Place], shards: int) -> list[Document]:
    """The tables, or of some tables the shards, that a folder lacks: all those of the parts that it has begun."""
    parts = {place.part for name, place in places.items() if files(folder / name)} | {""}
    return [
        {"place": str(path.relative_to(run.path)), "stage": place.stage}
        for name, place in places.items()
        if place.part in parts
        for path in _absent(folder / name, shards)
    ]


def _absent(place: Path, shards: int) -> list[Path]:
    there = {path.name[:3] for path in files(place)}
    if place.suffix or not there:
        return [] if there else [place]
    return [place / f"{shard:03d}.parquet" for shard in range(shards) if f"{shard:03d}" not in there]
