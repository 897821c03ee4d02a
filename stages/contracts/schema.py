"""What a table is: its columns, their types and descriptions, and rows in that form. No files."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

_DTYPES: dict[str, pa.DataType] = {
    "str": pa.large_string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "strings": pa.large_list(pa.large_string()),
    "tokens": pa.large_list(pa.int32()),
    "messages": pa.large_list(pa.struct([("role", pa.large_string()), ("content", pa.large_string())])),
    "span": pa.large_list(pa.int64()),
}


@dataclass(frozen=True)
class Table:
    """One artifact: its name, what one row is, its key columns, and its columns.

    `columns` maps a name to `(dtype, description)`; a dtype ending in `?` admits nulls.
    """

    name: str
    row: str
    key: tuple[str, ...]
    columns: dict[str, tuple[str, str]]

    @property
    def schema(self) -> pa.Schema:
        """The pyarrow schema, with each column's description as field metadata."""
        return pa.schema(
            [
                pa.field(
                    name,
                    _DTYPES[dtype.rstrip("?")],
                    nullable=dtype.endswith("?"),
                    metadata={"description": description},
                )
                for name, (dtype, description) in self.columns.items()
            ]
        )


def frame(table: Table, rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Rows as a data frame with exactly the table's columns and types (also when there are no rows)."""
    nullable = pa.schema([field.with_nullable(True) for field in table.schema])
    arrow = pa.Table.from_pylist(list(rows), schema=nullable)
    return pl.DataFrame(pl.from_arrow(arrow))
