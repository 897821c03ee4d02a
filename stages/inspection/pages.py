"""Documents of `show` and `diff` as pages for people: rich tables of texts that are plain already."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stages.inspection.iteration_numbers import NAMES
from stages.inspection.plain import cut, number
from stages.inspection.settings_of_stages import flattened

Document = dict[str, Any]
Row = dict[str, Any]
EXAMPLES = 8
"""Prompts that a page names of those that gained or lost a pair."""
VALUE = 60
"""Characters of a setting's value."""


def table(title: str, head: list[str], rows: Iterable[list[str]], numbers: int = 0) -> Table:
    """A table whose last `numbers` columns are set to the right."""
    drawn = Table(title=Text(title), title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for index, name in enumerate(head):
        right = index >= len(head) - numbers
        drawn.add_column(Text(name), justify="right" if right else "left", overflow="fold", header_style="dim")
    for row in rows:
        drawn.add_row(*map(Text, row))
    return drawn


def blocks(*parts: RenderableType | None) -> Group:
    """Parts under each other with a line between; none of those that are None."""
    there = [part for part in parts if part is not None]
    return Group(*(piece for part in there for piece in (part, Text())))


def artifact_page(document: Document, limit: int | None) -> RenderableType:
    """Page of an artifact; `limit` is how many characters of a text are shown, None for all."""
    size = f"{document['rows']} rows" + (f" in {document['files']} files" if document["files"] > 1 else "")
    what = document["table"] or "no table of this pipeline"
    head = Text.assemble((what, "bold"), f"   {size}   {document['path']}")
    meaning = f"One row: {document['row']}. Key: {', '.join(document['key'])}." if document["row"] else None
    columns = table(
        "Columns",
        ["column", "type", "values", "meaning"],
        ([one["name"], one["type"], _held(one), one["meaning"] or ""] for one in document["columns"]),
    )
    samples = [
        table(f"Row {place}", ["column", "value"], ([name, _shown(value, limit)] for name, value in row.items()))
        for place, row in enumerate(document["sample"], start=1)
    ]
    return blocks(head, Text(meaning) if meaning else None, columns, *_origin(document["provenance"]), *samples)


def _held(column: Row) -> str:
    """What a column holds, in a few words."""
    words = [f"{column['nulls']} null"] if column["nulls"] else []
    if "counts" in column:
        words += [f"{value} ({count})" for value, count in column["counts"].items()]
    elif "distinct" in column:
        words.append(f"{column['distinct']} distinct")
    else:
        unit = next((name for name in ("characters", "items") if name in column), "")
        spread = column[unit] if unit else column
        if spread.get("max") is not None:
            mean = f", mean {number(spread['mean'])}"
            words.append(f"{number(spread['min'])} to {number(spread['max'])}{' ' if unit else ''}{unit}{mean}")
    return ", ".join(words)


def _shown(value: Any, limit: int | None) -> str:
    """A value of a row; of long lists of numbers the first ones."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "role" in value[0]:
        return "\n".join(f"{turn['role']}: {cut(str(turn['content']), limit)}" for turn in value)
    if isinstance(value, list):
        return cut(", ".join(map(str, value)), limit)
    return "-" if value is None else cut(str(value), limit)


def _origin(provenance: Document) -> list[RenderableType]:
    """Where a file comes from: facts, settings, inputs."""
    if not provenance:
        return [Text("No provenance: not written by a stage of this pipeline.")]
    nested = {"settings": "setting", "inputs": "input"}
    rows = [[name, _setting(value)] for name, value in provenance.items() if name not in nested]
    parts: list[RenderableType] = [table("Provenance", ["fact", "value"], rows)]
    for name, head in nested.items():
        rows = [[inner, _setting(value)] for inner, value in flattened(provenance.get(name, {}))]
        parts += [table(name.capitalize(), [head, "digest" if name == "inputs" else "value"], rows)] if rows else []
    return parts


def _setting(value: Any) -> str:
    return cut(str(value), 4 * VALUE)


def run_page(document: Document, limit: int | None) -> RenderableType:
    """Page of a run."""
    iterations = ", ".join(map(str, document["iterations"])) or "none yet"
    models = [[one["model"], one["digest"], "yes" if one["evaluated"] else "no"] for one in document["models"]]
    tables = [
        [one["place"], one["table"] or "", one["problem"] or "", str(one["files"]), str(one["rows"])]
        for one in document["tables"]
    ]
    return blocks(
        Text.assemble(("Run", "bold"), f"   {document['path']}   iterations: {iterations}"),
        table("Models", ["model", "digest", "evaluated"], models),
        table("Tables", ["place", "table", "problem", "files", "rows"], tables, numbers=2),
        _headline(document["headline"]) if document["headline"] else None,
        _missing(document["missing"]),
    )


def _headline(rows: list[Row]) -> Table:
    """Metrics by model."""
    models = sorted({row["model"] for row in rows})
    values = {(row["metric"], row["model"]): row for row in rows}
    metrics = sorted({row["metric"] for row in rows})
    head = ["metric", *("base" if model < 0 else f"model {model}" for model in models)]
    cells = ([metric, *(_measured(values.get((metric, model))) for model in models)] for metric in metrics)
    return table("Headline (mean, 95 % interval)", head, cells, numbers=len(models))


def _measured(row: Row | None) -> str:
    if row is None:
        return ""
    interval = "" if row["low"] is None else f" [{number(row['low'])}, {number(row['high'])}]"
    return f"{number(row['value'])}{interval}"


def _missing(rows: list[Row]) -> RenderableType:
    if not rows:
        return Text("Missing: nothing")
    return table("Missing", ["place", "made by the stage"], ([row["place"], row["stage"]] for row in rows))


def difference_page(document: Document, limit: int | None) -> RenderableType:
    """Page of what differs."""
    iterations = [part for one in document["iterations"] for part in _iteration(one)]
    headline = [[_models(row), row["metric"], *_numbers(row)] for row in document["headline"]]
    settings = [
        [row["stage"], row["setting"], ", ".join(map(str, row["iterations"])),
         cut(str(row["a"]), VALUE), cut(str(row["b"]), VALUE)]
        for row in document["settings"]
    ]  # fmt: skip
    return blocks(
        Text(f"A: {document['a']}\nB: {document['b']}"),
        *iterations,
        table("Headline", ["model", "metric", "A", "B", "B - A"], headline, numbers=3) if headline else None,
        table("Settings that differ", ["stage", "setting", "iterations", "A", "B"], settings)
        if settings
        else Text("Settings that differ: none"),
    )


def _models(row: Row) -> str:
    return row["model_a"] if row["model_a"] == row["model_b"] else f"{row['model_a']}, {row['model_b']}"


def _numbers(row: Row) -> list[str]:
    change = number(row["difference"])
    return [number(row["a"]), number(row["b"]), f"+{change}" if (row["difference"] or 0) > 0 else change]


def _iteration(one: Document) -> Iterator[RenderableType]:
    label = f"Iteration {one['a']}" if one["a"] == one["b"] else f"Iterations {one['a']} (A) and {one['b']} (B)"
    rows = [[NAMES[row["name"]], *_numbers(row)] for row in one["numbers"] if (row["a"], row["b"]) != (None, None)]
    yield table(label, ["", "A", "B", "B - A"], rows, numbers=3)
    scores, pairs = one["scores"], one["pairs"]
    lines = [f"Scores of {scores['prompts']} prompts of both: {scores['higher']} higher, {scores['lower']} lower in B"]
    lines += [f"Prompts with a pair in both: {pairs['same']} the same, {pairs['changed']} another"]
    for name, other in (("gained", "A"), ("lost", "B")):
        found = Counter(f"{row['kind']} {row['reason']}" for row in pairs[name]).most_common()
        reasons = ", ".join(f"{count} {reason}" for reason, count in found)
        lines += [f"Pairs {name}: {len(pairs[name])}" + (f", without one in {other} for: {reasons}" if found else "")]
        lines += [f"  {kind}: {_some(list(rows))}" for kind, rows in groupby(pairs[name], key=lambda row: row["kind"])]
    yield Text("\n".join(lines))


def _some(rows: list[Row]) -> str:
    more = f" and {len(rows) - EXAMPLES} more" if len(rows) > EXAMPLES else ""
    return ", ".join(row["prompt_id"] for row in rows[:EXAMPLES]) + more
