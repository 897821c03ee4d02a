"""The registry of checks: each instruction's test of a response, under its id, with the arguments that it accepts."""

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Annotated, Any, NamedTuple, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, create_model

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Texts = Annotated[list[Text], Field(min_length=1)]
_LAST_TURN = "prompt_to_repeat"
"""The argument that, where it is not given, is the last user turn."""


class Check(NamedTuple):
    """A check and the model of its arguments."""

    test: Callable[..., bool]
    arguments: type[BaseModel]


CHECKS: dict[str, Check] = {}
"""Every check by its instruction id."""


def arguments_of(instruction: str, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an instruction, of the right types; null ones do not count as given.

    Raises ValueError, in one line, for an unknown instruction and for a missing, unknown or unusable argument.
    """
    if instruction not in CHECKS:
        raise ValueError(f"unknown instruction {instruction[:60]!r}; known are {', '.join(sorted(CHECKS))}")
    values = {name: value for name, value in given.items() if value is not None}
    try:
        return CHECKS[instruction].arguments.model_validate(values).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part)[:60] for part in first["loc"])
        raise ValueError(f"argument {where!r} of {instruction}: {first['msg']}") from None


def follows(instruction: str, arguments: dict[str, Any], response: str, last_turn: str) -> bool:
    """Whether `response`, the answer to the user's `last_turn`, follows an instruction.

    Raises what `arguments_of` raises, and ValueError or RecursionError where the check cannot be carried out.
    """
    values = arguments_of(instruction, arguments)
    check = CHECKS[instruction]
    if _LAST_TURN in check.arguments.model_fields:
        values.setdefault(_LAST_TURN, last_turn)
    return check.test(response, **values)


def register(instruction: str) -> Callable[[Callable[..., bool]], Callable[..., bool]]:
    """Register a check; its parameters after the response, with their types, become the arguments it accepts."""

    def registered(test: Callable[..., bool]) -> Callable[..., bool]:
        hints = get_type_hints(test, include_extras=True)
        parameters = list(signature(test).parameters.values())[1:]
        fields: dict[str, Any] = {
            item.name: (hints[item.name], ... if item.default is Parameter.empty else item.default)
            for item in parameters
        }
        CHECKS[instruction] = Check(test, create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields))
        return test

    return registered
