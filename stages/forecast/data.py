"""How much data there is: rows of the files that the configuration names, counted. What is not there is told."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from stages.config.whole import Config
from stages.contracts.ids import near_key, prompt_id, split_position
from stages.forecast.ranked_data import uses
from stages.inspection.parquet import described
from stages.sources.chat_records import FIELDS, Conversation, parse
from stages.sources.files import read_rows

Found = TypeVar("Found")


@dataclass(frozen=True)
class Data:
    """Numbers of rows; None where a file is missing. `ingest` and `ranked` may drop more than duplicates, so that a run
    may have fewer."""

    held_out: int | None = 0
    """Prompts that models are measured on."""
    checked_share: float | None = 0.0
    """Share of the pool's prompts that carry checks, where they are looked at."""
    ranked: int | None = 0
    """Answers that the base model judges in EFT."""
    tests: int | None = 0
    """Answers that test the judge."""
    ift: int | None = 0
    """Examples of IFT."""
    missing: list[str] = field(default_factory=list)
    """A sentence on each file that is not there."""


def counted(config: Config) -> Data:
    """Count, duplicates left out. StageError for a file that cannot be read."""
    pool = _if_there(config.ingest.sources, _prompts) if _asks_the_pool(config) else []
    own = config.evaluate.prompts
    held_out = _validation(pool, config.ingest.validation_fraction) if own is None else _if_there([own], _prompts)
    ranked: dict[str, int] | None = {"eft": 0, "test": 0, "ift": 0}
    if config.eft.enabled:
        ranked = _if_there(config.eft.sources, lambda _: uses(config.eft))
    tests = None if ranked is None else ranked["test"]
    if given := config.evaluate.judge_tests:
        tests = _if_there([given], lambda paths: described(paths[0]).rows)
    return Data(
        held_out=None if held_out is None else len(held_out),
        checked_share=_share_with_checks(pool) if config.verify.enabled else 0.0,
        ranked=None if ranked is None else ranked["eft"],
        tests=tests,
        ift=None if ranked is None else ranked["ift"],
        missing=[f"{path}: no such file, so that {what} is not known" for path, what in _missing(config)],
    )


def _asks_the_pool(config: Config) -> bool:
    return config.verify.enabled or config.evaluate.prompts is None


def _missing(config: Config) -> Iterator[tuple[Path, str]]:
    """The files that should be counted and are not there, and what depends on them."""
    pool = config.ingest.sources if _asks_the_pool(config) else []
    needed: list[tuple[Sequence[Path | None], str]] = [
        (pool, "how many prompts are held out or carry checks"),
        ([config.evaluate.prompts], "how many prompts models are measured on"),
        (config.eft.sources if config.eft.enabled else [], "how many answers EFT judges and the judge is tested with"),
        ([config.evaluate.judge_tests], "how many answers the judge is tested with"),
    ]
    return ((path, what) for paths, what in needed for path in paths if path and not path.is_file())


def _if_there(paths: Sequence[Path], count: Callable[[Sequence[Path]], Found]) -> Found | None:
    return count(paths) if all(path.is_file() for path in paths) else None


def _prompts(paths: Sequence[Path]) -> list[Conversation]:
    """The conversations of chat data, of near twins the first."""
    found: dict[str, Conversation] = {}
    for path in paths:
        for _, _, one in read_rows(path, parse, FIELDS, "conversations"):
            if isinstance(one, Conversation):
                found.setdefault(near_key(one.messages), one)
    return list(found.values())


def _validation(pool: list[Conversation] | None, fraction: float) -> list[Conversation] | None:
    """Those that `ingest` holds out."""
    return None if pool is None else [one for one in pool if split_position(prompt_id(one.messages)) < fraction]


def _share_with_checks(pool: list[Conversation] | None) -> float | None:
    return None if pool is None else sum(bool(one.checks) for one in pool) / max(1, len(pool))
