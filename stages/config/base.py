"""What every section of the configuration is made of: refusal of unknown keys, and schedules over the iterations."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo

T = TypeVar("T")
S = TypeVar("S", bound="Section")
Schedule: TypeAlias = T | list[T]
"""A value that may change over the iterations: a scalar, or a list with one value per iteration."""
Share = Annotated[float, Field(ge=0, le=1)]


class Decides(NamedTuple):
    """What a setting decides, if not what comes out of the run."""

    what: Literal["speed", "gate"]


Speed: TypeAlias = Annotated[T, Decides("speed")]
"""A setting that decides how fast a result comes, on which hardware, or where it is told: up to rounding the same rows
and weights come out. Another value redoes nothing."""
Gate: TypeAlias = Annotated[T, Decides("gate")]
"""A setting that decides whether a run stops. What has passed has passed: another value redoes nothing."""


def decides(field: FieldInfo) -> Literal["results", "speed", "gate"]:
    """What a field of a section decides."""
    return next((mark.what for mark in field.metadata if isinstance(mark, Decides)), "results")


def check_pattern(pattern: str, slot: str, grammars: Sequence[str]) -> None:
    """ValueError if a pattern neither names a grammar nor is a regular expression with one `slot`."""
    if pattern in grammars:
        return
    if pattern.count(slot) != 1:
        raise ValueError(f"pattern must be {' or '.join(f'`{name}`' for name in grammars)}, or contain {slot} once")
    try:
        re.compile(pattern.replace(slot, "(x)"))
    except re.error as error:
        raise ValueError(f"pattern is not a regular expression: {error}") from None


class Section(BaseModel):
    """A part of the configuration; unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _complete_blocks(cls, values: Any) -> Any:
        """A block that is given in part keeps the rest of its default in this section, not of its type's."""
        if not isinstance(values, dict):
            return values
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        return values | {
            name: default.model_dump() | values[name]
            for name, default in defaults.items()
            if isinstance(default, BaseModel) and isinstance(values.get(name), dict)
        }


def at(value: "T | list[T]", iteration: int) -> T:
    """The value of a schedule in an iteration (counted from 1)."""
    return value[iteration - 1] if isinstance(value, list) else value


def resolved(value: "T | list[T]") -> T:
    """A value of settings that `resolve` has made those of one iteration."""
    assert not isinstance(value, list), "a stage resolves its schedules at the door"
    return value


def resolve(section: S, iteration: int) -> S:
    """A section with each schedule replaced by its value in `iteration`."""
    values = {}
    for name, value in section:
        if isinstance(value, Section):
            values[name] = resolve(value, iteration)
        else:
            values[name] = at(value, iteration) if is_schedule(type(section), name) else value
    return section.model_copy(update=values)


def is_schedule(model: type[BaseModel], name: str) -> bool:
    """Whether a field takes one value per iteration."""
    kinds = [get_origin(kind) for kind in get_args(model.model_fields[name].annotation)]
    return list in kinds and len(kinds) > 1


def paths(section: Section, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """All paths in a section and those within it, by key."""
    for name, value in section:
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Section):
                yield from paths(part, f"{prefix}{name}.")
            elif isinstance(part, Path):
                yield f"{prefix}{name}", part


def schedules(section: Section, prefix: str = "") -> list[tuple[str, list[Any]]]:
    """The values of all schedules that are lists, in a section and those within it, by key."""
    found: list[tuple[str, list[Any]]] = []
    for name, value in section:
        if isinstance(value, Section):
            found += schedules(value, f"{prefix}{name}.")
        elif isinstance(value, list) and is_schedule(type(section), name):
            found.append((f"{prefix}{name}", value))
    return found
