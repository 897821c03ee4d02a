"""The plan as a page for people: tables of rich."""

from collections.abc import Iterator
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from stages.inspection.pages import blocks, table

Document = dict[str, Any]
GIB = 2**30
PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k"))


def plan_page(plan: Document) -> RenderableType:
    """The whole page."""
    return blocks(
        Text(f"Plan of run {plan['run']}: what is expected, and in parentheses the most"),
        table("Generation", GENERATION, _generation(plan["stages"]), numbers=5),
        table("Training", TRAINING, _training(plan["stages"]), numbers=4),
        Text(f"Hours of devices in all: {amount(plan['hours'])}; of what is known: {amount(plan['hours_known'])}"),
        table("Snakemake's jobs", ["rule", "jobs"], _jobs(plan["jobs"]), numbers=1),
        table("Disk", ["", "GiB"], _disk(plan["disk"]), numbers=1),
        table("Memory of a rank in training", ["", "GiB"], _memory(plan), numbers=1)
        if plan["memory_per_rank"]
        else None,
        _list("Not known", plan["unknown"]),
        _list("Assumptions", plan["assumptions"]),
    )


GENERATION = ["iteration", "rule", "jobs", "requests", "prompt tokens", "generated tokens", "hours"]
TRAINING = ["iteration", "rule", "rows", "steps", "tokens", "hours"]


def number(value: float | None) -> str:
    """A number of people's size: `385k`, `1.23M`; a question mark for none."""
    if value is None:
        return "?"
    for unit, prefix in PREFIXES:
        if value >= unit:
            return f"{value / (1e3 if prefix == 'k' else unit):.3g}{prefix}"
    return f"{value:.0f}" if value == round(value) else f"{value:.3g}"


def amount(given: dict[str, float | None], scale: float = 1) -> str:
    """What is expected and, in parentheses, the most; one number where both are the same."""
    expected, most = (None if value is None else value / scale for value in (given["expected"], given["most"]))
    return number(expected) if expected == most else f"{number(expected)} ({number(most)})"


def _generation(stages: list[Document]) -> Iterator[list[str]]:
    for one in stages:
        if "requests" in one:
            amounts = (amount(one[name]) for name in ("requests", "prompt_tokens", "generated_tokens", "hours"))
            yield [_when(one), one["rule"], str(one["jobs"]), *amounts]


def _training(stages: list[Document]) -> Iterator[list[str]]:
    for one in stages:
        if "rows" in one:
            amounts = (amount(one[name]) for name in ("rows", "steps", "trained_tokens", "hours"))
            yield [_when(one), one["rule"], *amounts]


def _when(stage: Document) -> str:
    return str(stage["iteration"] or "before")


def _jobs(jobs: dict[str, int]) -> list[list[str]]:
    return [*([rule, str(count)] for rule, count in jobs.items()), ["in all", str(sum(jobs.values()))]]


def _disk(disk: Document) -> list[list[str]]:
    rows = [["tables", amount(disk["tables"], GIB)], ["models", gib(disk["models"])]]
    return [*rows, ["checkpoints, while a training runs", gib(disk["checkpoints"])]]


def _memory(plan: Document) -> list[list[str]]:
    memory = dict(plan["memory_per_rank"])
    held = memory.pop("parameters")
    head = f"weights ({number(held)} of {number(plan['parameters'])})"
    return [[head if name == "weights" else name, gib(value)] for name, value in memory.items()]


def gib(value: float | None) -> str:
    """Bytes in GiB."""
    return number(None if value is None else value / GIB)


def _list(title: str, sentences: list[str]) -> RenderableType | None:
    if not sentences:
        return None
    return Text.assemble((title, "bold"), *(f"\n- {sentence}" for sentence in sentences))
