"""Command lines from typed settings: each field of a stage's `Args` model is a flag, its description the help."""

import argparse
import contextlib
import json
import os
import shlex
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from stages.contracts.errors import StageError
from stages.contracts.files import UNWRITABLE

Args = TypeVar("Args", bound=BaseModel)
SECONDS_TO_BE_ENDED = 20
"""What a busy machine's torchrun may take to notice that a rank is gone, and to end the others."""


def run(args_type: type[Args], main: Callable[[Args], None], argv: list[str] | None = None) -> None:
    """Parse the command line into `args_type` and call `main`; see `errors_told` for how it ends."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {spec.name}" if (spec := sys.modules[main.__module__].__spec__) else None,
        description=sys.modules[main.__module__].__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_fields(parser, args_type, prefix="")
    values = vars(parser.parse_args(argv))
    with errors_told():
        main(checked(args_type, _nested(values)))


def checked(args_type: type[Args], values: dict[str, Any]) -> Args:
    """The arguments of these values. StageError, in one line, where they are invalid."""
    try:
        return args_type(**values)
    except ValidationError as error:
        raise StageError(_told(error, args_type)) from None


def _told(error: ValidationError, args_type: type[BaseModel]) -> str:
    """The first of the errors: the flag and what it was given, or in its own words what a section of flags says."""
    first = error.errors()[0]
    names: list[str] = []
    model: Any = args_type
    for part in first["loc"]:  # what follows the fields says which of a field's types was tried
        if not (isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields):
            break
        names.append(str(part))
        model = model.model_fields[names[-1]].annotation
    message = first["msg"].removeprefix("Value error, ")
    if isinstance(first["input"], dict):
        return message
    return f"--{'.'.join(names).replace('_', '-')}: {message} (given: {first['input']!r})"


@contextlib.contextmanager
def errors_told() -> Iterator[None]:
    """End the program with one line for an error meant for the user, and with exit code 1.

    Of several ranks that fail, the first one tells its error.
    """
    try:
        yield
    except (StageError, OSError) as error:
        remedy = UNWRITABLE.get(error.errno or 0) if isinstance(error, OSError) else None
        told = f"error: {error}" + (f"; {remedy}, and run the same command again" if remedy else "")
        if "RANK" in os.environ:
            _end_rank(told)
        sys.exit(told)
    except (Exception, KeyboardInterrupt) as error:
        if "RANK" in os.environ:
            # Where another rank was killed, this one has only lost its connection: torchrun ends it before it says so.
            if "connection" in str(error).lower():
                time.sleep(SECONDS_TO_BE_ENDED)
            _end_rank(traceback.format_exc())
        raise


def _end_rank(message: str) -> NoReturn:
    """End one rank of several: tell its error, if no rank told one before, and leave without any further ado.

    Ranks mostly fail together: for the same reason, or because the first one to fail has left them. torchrun gives the
    ranks of a machine a common directory, where the first one leaves a mark. Cleaning up would wait for other ranks,
    which wait for this one; torchrun ends those as soon as this one is gone.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    try:
        if file:
            Path(file).parents[1].joinpath("failed").touch(exist_ok=False)
        print(textwrap.indent(message.strip(), f"[rank {os.environ['RANK']}] "), file=sys.stderr)
    except FileExistsError:
        pass
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def flags(
    settings: BaseModel,
    prefix: str = "",
    only: Sequence[str] | None = None,
    keep: Callable[[FieldInfo], bool] = lambda field: True,
) -> str:
    """The command-line flags that reproduce `settings` (or `only` those fields), shell-quoted; unset (None) values are
    left out, and so are fields, nested ones too, that `keep` does not keep."""
    chosen = [name for name in type(settings).model_fields if only is None or name in only]
    return shlex.join(word for name in chosen for word in _flags(settings, name, prefix, keep))


def _flags(settings: BaseModel, name: str, prefix: str, keep: Callable[[FieldInfo], bool]) -> list[str]:
    field, value = type(settings).model_fields[name], getattr(settings, name)
    flag = f"--{prefix}{name.replace('_', '-')}"
    if isinstance(value, BaseModel):
        inner = f"{prefix}{name.replace('_', '-')}."
        return [word for part in type(value).model_fields for word in _flags(value, part, inner, keep)]
    if value is None or not keep(field):
        return []
    if isinstance(value, list | tuple):
        words = list(map(str, value))
        if any(word.startswith("-") for word in words):
            return [f"{flag}={word}" for word in words]
        # A bare flag empties a list that is not empty by default.
        return [flag, *words] if words or field.default else []
    if isinstance(value, dict):
        return [flag, json.dumps(value)] if value or field.default else []
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return [f"{flag}={text}"] if text.startswith("-") else [flag, text]


def _add_fields(parser: argparse.ArgumentParser, model: type[BaseModel], prefix: str) -> None:
    for name, field in model.model_fields.items():
        flag = f"{prefix}{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            _add_fields(parser, field.annotation, prefix=f"{flag}.")
        else:
            parser.add_argument(f"--{flag.replace('_', '-')}", dest=flag, **_options(field))


def _options(field: FieldInfo) -> dict[str, Any]:
    text = field.description or ""
    mapping = get_origin(field.annotation) is dict
    if not field.is_required() and field.default not in (None, [], {}):
        text += f" [default: {field.default}]"
    return {
        "required": field.is_required(),
        "default": argparse.SUPPRESS,
        "help": text.replace("%", "%%"),
        **({"nargs": "*", "action": "extend"} if get_origin(field.annotation) is list else {}),
        "metavar": "PATH" if field.annotation is Path else "JSON" if mapping else "VALUE",
        **({"type": _mapping} if mapping else {}),
    }


def _mapping(text: str) -> dict[str, Any]:
    """A mapping on the command line is one JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not valid JSON: {error} (given: {text!r})") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"a JSON object is expected (given: {text!r})")
    return value


def _nested(values: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree
