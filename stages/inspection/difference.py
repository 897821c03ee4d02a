"""What differs between two runs, or between two iterations: numbers, pairs, headline, settings."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import polars as pl

from stages.contracts.errors import StageError
from stages.inspection.iteration_numbers import iteration_numbers
from stages.inspection.run_folder import RunFolder, by_number
from stages.inspection.settings_of_stages import Settings, settings_of_an_iteration, settings_of_the_run

Document = dict[str, Any]
Row = dict[str, Any]
Prompt = tuple[str, str]
"""A kind of pairs, and a prompt."""
NOT_DRAWN = "not_drawn"
"""Why there is no pair of a prompt that an iteration does not have."""
NOT_MADE = "not_made"
"""Why there is neither a pair nor a reason: the iteration makes no pairs of this kind, or has made none yet."""


def difference(a: RunFolder, b: RunFolder) -> Document:
    """All that differs from `a` to `b`; keys as in docs/inspecting.md. Of whole runs the iterations that both have are
    compared, of single iterations these and the models that come of them. StageError if there is nothing to compare."""
    single = len(a.iterations) == len(b.iterations) == 1
    compared = [(a.iterations[0], b.iterations[0])] if single else _shared(a, b)
    if not compared:
        raise StageError(f"{a.path} and {b.path}: no iteration that both have")
    models = [(str(first), str(second)) for first, second in compared]
    if a.iterations == b.iterations or not single:
        models = [(name, name) for name in by_number({*a.evaluated()} & {*b.evaluated()})]
    return {
        "kind": "difference",
        "a": str(a.path),
        "b": str(b.path),
        "iterations": [_iteration(a, b, first, second) for first, second in compared],
        "headline": [row for first, second in models for row in _headline(a, b, first, second)],
        "settings": _settings(a, b, compared),
        "problems": list(a.problems | b.problems),
    }


def _shared(a: RunFolder, b: RunFolder) -> list[tuple[int, int]]:
    return [(number, number) for number in a.iterations if number in b.iterations]


def _iteration(a: RunFolder, b: RunFolder, first: int, second: int) -> Document:
    numbers = iteration_numbers(a, first), iteration_numbers(b, second)
    return {
        "a": first,
        "b": second,
        "numbers": [{"name": name, **_two(numbers[0][name], numbers[1][name])} for name in numbers[0]],
        "scores": _scores(a, b, first, second),
        "pairs": _pairs(a, b, first, second),
    }


def _two(a: float | None, b: float | None) -> Row:
    return {"a": a, "b": b, "difference": None if a is None or b is None else b - a}


def _scores(a: RunFolder, b: RunFolder, first: int, second: int) -> Row:
    """How the mean scores of the prompts that both have differ."""
    parts = [run.rows(number, "scores.parquet", ["prompt_id", "score"]) for run, number in ((a, first), (b, second))]
    means = [part.group_by("prompt_id").agg(pl.col("score").mean()).drop_nulls() for part in parts]
    change = means[0].join(means[1], on="prompt_id").select(pl.col("score_right") - pl.col("score")).to_series()
    mean = change.mean()
    return {"prompts": len(change), "higher": int((change > 0).sum()), "lower": int((change < 0).sum()), "mean": mean}


def _pairs(a: RunFolder, b: RunFolder, first: int, second: int) -> Row:
    """The prompts that have a pair in one only, with the other's reason for having none, and how many have one in both:
    the same or another."""
    members, others = _members(a, first), _members(b, second)
    both = [prompt for prompt in members if prompt in others]
    same = sum(members[prompt] == others[prompt] for prompt in both)
    return {
        "same": same,
        "changed": len(both) - same,
        "gained": _only(others, members, _reasons(a, first)),
        "lost": _only(members, others, _reasons(b, second)),
    }


def _members(run: RunFolder, iteration: int) -> dict[Prompt, list[Any]]:
    """The texts of each prompt's pairs."""
    columns = ["kind", "prompt_id", "pair_id", "chosen", "rejected"]
    pairs = run.rows(iteration, "pairs.parquet", columns).sort("kind", "prompt_id", "pair_id").rows()
    grouped = groupby(pairs, key=lambda row: row[:2])
    return {(kind, prompt): [row[3:] for row in rows] for (kind, prompt), rows in grouped}


def _reasons(run: RunFolder, iteration: int) -> dict[Prompt, str]:
    """Why prompts have no pair: the ledger's first reason of each, for every kind."""
    drawn = run.rows(iteration, "prompts.parquet", ["prompt_id"])["prompt_id"]
    ledger = run.rows(iteration, "pair_ledger.parquet", ["kind", "prompt_id", "pair", "reason"])
    rows = ledger.sort("pair", descending=True).select("kind", "prompt_id", "reason").iter_rows()
    reasons = {(kind, prompt): NOT_MADE for kind in ("actor", "judge") for prompt in drawn}
    return reasons | {(kind, prompt): reason for kind, prompt, reason in rows}


def _only(these: dict[Prompt, Any], those: dict[Prompt, Any], reasons: dict[Prompt, str]) -> list[Row]:
    return [
        {"kind": kind, "prompt_id": prompt, "reason": reasons.get((kind, prompt), NOT_DRAWN)}
        for kind, prompt in these
        if (kind, prompt) not in those
    ]


def _headline(a: RunFolder, b: RunFolder, first: str, second: str) -> Iterator[Row]:
    """The headline numbers of two models that both have."""
    columns = ["metric", "value"]
    values, others = (dict(run.summary(model).select(columns).iter_rows()) for run, model in ((a, first), (b, second)))
    for metric in sorted(values.keys() & others.keys()):
        yield {"model_a": first, "model_b": second, "metric": metric, **_two(values[metric], others[metric])}


def _settings(a: RunFolder, b: RunFolder, compared: list[tuple[int, int]]) -> list[Row]:
    """The settings that differ, each once with the iterations (of `b`) in which it does; none for those before and
    beside the loop."""
    found: dict[str, Row] = {}
    sides: list[tuple[int | None, Settings, Settings]] = [(None, settings_of_the_run(a), settings_of_the_run(b))]
    sides += [(two, settings_of_an_iteration(a, one), settings_of_an_iteration(b, two)) for one, two in compared]
    for number, first, second in sides:
        for (stage, setting), value in first.items():
            other = second.get((stage, setting), value)
            if other != value:
                row = {"stage": stage, "setting": setting, "a": value, "b": other}
                known = found.setdefault(repr(row), {**row, "iterations": []})
                known["iterations"] += [] if number is None else [number]
    return list(found.values())
