"""How many jobs Snakemake runs for each rule: what `workflow/` plans for a run that has not begun. Pure."""

from typing import NamedTuple

from stages.config import at
from stages.config.whole import Config

ONCE = 0
"""In place of an iteration: what runs once, before the loop or after it."""


class Jobs(NamedTuple):
    """The jobs of a rule in an iteration."""

    iteration: int
    rule: str
    number: int


def jobs(config: Config) -> list[Jobs]:
    """All jobs but the target `all`; a rule that an iteration has no use for is not among them."""
    return [*_once(config), *(job for t in range(1, config.run.iterations + 1) for job in _iteration(config, t))]


def _once(config: Config) -> list[Jobs]:
    eft = config.eft.enabled
    counts = {
        "ingest": 1,
        "ingest_held_out": config.evaluate.prompts is not None,
        "base_model": 1,
        "ranked": eft,
        "eft_judge": eft * config.run.shards,
        "eft_score": eft,
        "eft": eft,
        "sft": eft * (1 + (config.eft.ift_fraction > 0)),
        "evaluate": 1 + eft,
        "report": 1,
    }
    return _there(ONCE, counts)


def _iteration(config: Config, iteration: int) -> list[Jobs]:
    shards = config.run.shards
    creates, compares = at(config.create.enabled, iteration), at(config.meta_judge.enabled, iteration)
    counts = {
        "create": creates * shards,
        "filter_prompts": creates,
        "select": 1,
        "candidates": shards,
        "verify": config.verify.enabled * shards,
        "judge": shards * len(config.judges),
        "score": 1,
        "meta_judge": compares * shards,
        "rate": compares,
        "pairs": 1,
        "reference_logprobs": 1,
        "train": 1,
        "evaluate": 1,
    }
    return _there(iteration, counts)


def _there(iteration: int, counts: dict[str, int]) -> list[Jobs]:
    return [Jobs(iteration, rule, int(count)) for rule, count in counts.items() if count]
