"""One artifact: which table it is, what its columns mean, where it comes from, and what its columns hold."""

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from stages.contracts.errors import StageError
from stages.inspection.parquet import described, files, scan, told
from stages.tables import ALL

Document = dict[str, Any]
TABLES = {table.name: table for table in ALL}
FEW_VALUES = 12
"""A column of short texts with at most so many values is one of categories."""
SHORT = 40
"""Characters of the longest text that may be a category."""


def artifact(place: Path, sample: int) -> Document:
    """What there is to say of a Parquet file, or of the shards of one table in a folder, with the first `sample` rows;
    keys as in docs/inspecting.md. StageError if it is neither."""
    paths = files(place)
    if not paths:
        raise StageError(f"{place}: {'no Parquet files in it' if place.exists() else 'no such file'}")
    parts = [described(path) for path in paths]
    names = sorted({part.table for part in parts})
    if len(names) > 1:
        raise StageError(f"{place}: holds several tables ({', '.join(names)}); name one of its files")
    table = TABLES.get(names[0])
    with told(place):
        schema = pa.unify_schemas([part.schema.remove_metadata() for part in parts], promote_options="permissive")
        held, first = statistics(scan(paths)), scan(paths).head(sample).collect().to_dicts()
    return {
        "kind": "artifact",
        "path": str(place),
        "files": len(paths),
        "table": names[0] or None,
        "row": table.row if table else None,
        "key": list(table.key) if table else [],
        "rows": sum(part.rows for part in parts),
        "columns": [
            {
                "name": field.name,
                "type": table.columns[field.name][0] if table and field.name in table.columns else str(field.type),
                "meaning": _meaning(parts[0].schema, field.name),
                **held[field.name],
            }
            for field in schema
        ],
        "provenance": parts[0].provenance,
        "sample": first,
    }


def _meaning(schema: pa.Schema, name: str) -> str | None:
    """What the file itself says of a column."""
    metadata = schema.field(name).metadata if name in schema.names else None
    return (metadata or {}).get(b"description", b"").decode() or None


def statistics(data: pl.LazyFrame) -> dict[str, Document]:
    """Of each column `nulls`, and by its type

    - numbers: `min`, `mean`, `max`;
    - lists: the same of their `items`;
    - texts: the same of their `characters`; of short ones `distinct`, and `counts` where there are few;
    - truth values: `counts`.

    Files pass by in pieces: all texts at once may not fit in memory.
    """
    schema = data.collect_schema()
    numbers = {name: expression for name, dtype in schema.items() if (expression := _measured(name, dtype)) is not None}
    found = data.select(
        *(pl.col(name).null_count().alias(f"{name}\0nulls") for name in schema),
        *(
            getattr(number, how)().alias(f"{name}\0{how}")
            for name, number in numbers.items()
            for how in ("min", "mean", "max")
        ),
    ).collect(engine="streaming")
    facts = {name: _part(found, name) for name in schema}
    short = [name for name, dtype in schema.items() if _may_be_category(dtype, facts[name])]
    return {name: _arranged(dtype, facts[name], _values(data, name, name in short)) for name, dtype in schema.items()}


def _measured(name: str, dtype: pl.DataType) -> pl.Expr | None:
    """The number that a column's statistics are of: the value, the length of a list or text."""
    if dtype.is_numeric():
        return pl.col(name)
    if isinstance(dtype, pl.List):
        return pl.col(name).list.len()
    return pl.col(name).str.len_chars() if dtype == pl.String else None


def _part(found: pl.DataFrame, name: str) -> Document:
    row = found.row(0, named=True)
    return {how: row[f"{name}\0{how}"] for how in ("nulls", "min", "mean", "max") if f"{name}\0{how}" in row}


def _may_be_category(dtype: pl.DataType, facts: Document) -> bool:
    return dtype == pl.Boolean or (dtype == pl.String and (facts["max"] or 0) <= SHORT)


def _values(data: pl.LazyFrame, name: str, short: bool) -> Document:
    """How many values a column of short texts has, and how often each occurs, most frequent first, if they are few."""
    if not short:
        return {}
    found = data.select(pl.col(name).drop_nulls().cast(pl.String)).group_by(name).len().collect(engine="streaming")
    if found.height > FEW_VALUES or name.endswith("_id"):
        return {"distinct": found.height}
    found = found.sort("len", name, descending=[True, False])
    return {"distinct": found.height, "counts": dict(found.iter_rows())}


def _arranged(dtype: pl.DataType, facts: Document, values: Document) -> Document:
    nulls, spread = {"nulls": facts.pop("nulls")}, facts
    if not spread or dtype.is_numeric():
        return {**nulls, **spread, **values}
    return {**nulls, **values, ("characters" if dtype == pl.String else "items"): spread}
