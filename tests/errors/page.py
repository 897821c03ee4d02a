"""Run the cases, and write what they say as a page.

.venv/bin/python -m tests.errors.page      (writes docs/errors.md)
"""

import contextlib
import importlib
import io
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from stages.contracts.cli import errors_told, run
from tests.errors.cases import CASES, Case

PAGE = Path(__file__).parents[2] / "docs/errors.md"
HEAD = """# What a stage says of bad input

Generated from the tests that provoke each of these (`.venv/bin/python -m tests.errors.page`). A stage that cannot go on
says why in one line, leaves the files that are there as they were, and ends with the exit code 1; a command line that
cannot be read ends with 2. Rows of data that cannot be used stop a stage only beyond a limit ([data.md](data.md)); the
first lines below are those of `strict`.

| what is wrong | message | exit code |
|-|-|-|
"""


class Outcome(NamedTuple):
    """How a stage ended."""

    message: str
    """The last line of what it printed."""
    code: int
    left: set[str]
    """Files that it left beside those that it was given, or changed."""


def outcome(case: Case, folder: Path) -> Outcome:
    """Run a case in an empty folder."""
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            content(path)
    before = _contents(folder)
    message, code = _ended(case.command, folder)
    after = _contents(folder)
    return Outcome(message, code, {name for name in after if after[name] != before.get(name)})


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _ended(command: str, folder: Path) -> tuple[str, int]:
    """The last line that a command prints, and its exit code."""
    name, *words = shlex.split(command)
    stage = importlib.import_module(f"stages.{name}")
    printed, here = io.StringIO(), os.getcwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(printed):
            if hasattr(stage, "parsed"):  # a command with words of its own beside flags
                with errors_told():
                    stage.main(stage.parsed(words))
            else:
                run(stage.Args, stage.main, words)
    except SystemExit as end:
        if isinstance(end.code, int):
            return printed.getvalue().strip().splitlines()[-1], end.code
        return str(end.code), 1
    finally:
        os.chdir(here)
    return printed.getvalue(), 0


def line(case: Case, found: Outcome) -> str:
    """The page's line of a case."""
    shown = found.message.replace("|", "\\|").replace("<", "&lt;")
    return f"| {case.what} | {case.command.split()[0]}: {shown} | {found.code} |\n"


def page() -> str:
    """The page."""
    rows = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows.append(line(case, outcome(case, Path(folder))))
    return HEAD + "".join(rows)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE, file=sys.stderr)
