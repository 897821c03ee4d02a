"""The settings that the tables of a run were made with, by stage: those of their provenance that are no paths of it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stages.inspection.parquet import files
from stages.inspection.run_folder import OF_AN_ITERATION, OF_EFT, OF_THE_POOL, Place, RunFolder

Settings = dict[tuple[str, str], Any]
"""Values by stage and dotted name."""
FACTS = {"code": "code", "version": "version", "template": "template_digest"}
"""Facts of the provenance that count as settings, and how they are called among them."""
WHERE = ("iteration", "shard", "number", "other")
"""Settings that say which part of the run a job is; `number` is an evaluated model, `other` its opponent."""


def settings_of_an_iteration(run: RunFolder, iteration: int) -> Settings:
    """Those of the stages of the loop."""
    return _of_folder(run, run.folder(iteration), OF_AN_ITERATION)


def settings_of_the_run(run: RunFolder) -> Settings:
    """Those of the stages before and beside the loop: the pool, EFT (its stages begin with `eft:`), evaluation and
    comparison of the last model that has them."""
    before = {f"eft:{stage}": value for stage, value in _stages(run.path / "eft", OF_EFT)}
    models = [run.path / "evaluation" / name for name in run.evaluated()]
    evaluated = [folder / "summary.parquet" for folder in models[-1:]]
    matches = [path for folder in models for path in sorted(folder.glob("against-*/win_rates.parquet"))]
    return {
        **_of_folder(run, run.path / "prompts", OF_THE_POOL),
        **_flat(run, before.items()),
        **_flat(run, [("evaluate", path) for path in evaluated]),
        **_flat(run, [("compare", path) for path in matches[-1:]]),
    }


def _of_folder(run: RunFolder, folder: Path, places: dict[str, Place]) -> Settings:
    return _flat(run, _stages(folder, places))


def _stages(folder: Path, places: dict[str, Place]) -> Iterator[tuple[str, Path]]:
    """Each stage that has left something, with one of its files."""
    seen = set()
    for name, place in places.items():
        if place.stage not in seen and (paths := files(folder / name)):
            seen.add(place.stage)
            yield place.stage, paths[0]


def _flat(run: RunFolder, made: Iterable[tuple[str, Path]]) -> Settings:
    found: Settings = {}
    for stage, path in made:
        origin = run.provenance(path)
        settings = {name: value for name, value in origin.get("settings", {}).items() if name not in WHERE}
        root = _root([*_texts(settings)], path.relative_to(run.path).as_posix())
        for name, value in flattened(settings):
            if not (root and any(text.startswith(root) for text in _texts(value))):
                found[stage, name] = value
        found |= {(stage, name): origin[fact] for fact, name in FACTS.items() if fact in origin}
    return found


def _root(texts: list[str], inner: str) -> str:
    """What the run's folder was called when a file was written: what stands before its place there. Empty where none of
    the settings names the file."""
    return next((text.removesuffix(inner) for text in texts if text.endswith(f"/{inner}")), "")


def _texts(value: Any) -> Iterator[str]:
    """All texts within a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def flattened(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings with their dotted names."""
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
