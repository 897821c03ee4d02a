"""The plan of a run as plain values, for scripts and for the page."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from stages.config.whole import Config
from stages.forecast.amounts import NONE, Amount
from stages.forecast.data import Data
from stages.forecast.disk import disk
from stages.forecast.jobs import Jobs, jobs
from stages.forecast.means import Means
from stages.forecast.memory import rank_memory
from stages.forecast.rates import Rates
from stages.forecast.requests import Asked, requests
from stages.forecast.training import Trained, trainings
from stages.forecast.words import assumptions, unknown
from stages.model_files.families import Architecture
from stages.model_files.size import parameters

Document = dict[str, Any]
GENERATED = ("requests", "prompt_tokens", "generated_tokens")
TRAINED = ("rows", "steps", "trained_tokens")


def document(config: Config, data: Data, means: Means, rates: Rates, model: Architecture | None) -> Document:
    """Everything that is planned; `means` are complete, `model` is None where its directory is not there.

    An amount is `expected` and `most`; null where nothing says it.
    """
    asked, learnt = requests(config, data, means), list(trainings(config, data, means))
    weights = None if model is None else parameters(model)
    stages = [_stage(one, asked, learnt, rates) for one in jobs(config)]
    hours = [Amount(**one["hours"]) for one in stages if "hours" in one]
    rules = {one["rule"] for one in stages}
    return {
        "run": config.run.name,
        "jobs": {rule: sum(one["jobs"] for one in stages if one["rule"] == rule) for rule in sorted(rules)},
        "stages": stages,
        "hours": _plain(sum(hours, NONE)),
        "hours_known": _plain(sum((Amount(one.expected or 0, one.most or 0) for one in hours), NONE)),
        "parameters": weights,
        "memory_per_rank": _memory(config, model),
        "disk": _disk(config, asked, weights),
        "assumptions": assumptions(config, means, rates),
        "unknown": unknown(config, data, means, rates, model),
    }


def _stage(one: Jobs, asked: Iterable[Asked], learnt: Iterable[Trained], rates: Rates) -> Document:
    """A rule in an iteration: its jobs, and what they ask or train, where they do."""
    stage: Document = {"iteration": one.iteration, "rule": one.rule, "jobs": one.number}
    mine = [part for part in asked if (part.iteration, part.rule) == (one.iteration, one.rule)]
    trained = [part for part in learnt if (part.iteration, part.rule) == (one.iteration, one.rule)]
    if mine:
        amounts = {name: sum((getattr(part, name) for part in mine), NONE) for name in GENERATED}
        amounts["hours"] = rates.hours(one.rule, amounts["generated_tokens"])
    elif trained:
        names = dict(zip(TRAINED, ("rows", "steps", "tokens"), strict=True))
        amounts = {name: sum((getattr(part, own) for part in trained), NONE) for name, own in names.items()}
        amounts["hours"] = rates.hours(one.rule, amounts["trained_tokens"])
    else:
        amounts = {}
    return stage | {name: _plain(amount) for name, amount in amounts.items()}


def _plain(amount: Amount) -> dict[str, float | None]:
    return dataclasses.asdict(amount)


def _memory(config: Config, model: Architecture | None) -> Document | None:
    if model is None:
        return None
    memory = rank_memory(model, config.megatron)
    return {**dataclasses.asdict(memory), "total": memory.total}


def _disk(config: Config, asked: Iterable[Asked], weights: int | None) -> Document:
    return dataclasses.asdict(disk(config, asked, weights))
