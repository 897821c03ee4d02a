"""Inspect: what an intermediate file or a run's folder holds, for people, or with `--json` for scripts.

    python -m stages.inspect PATH            a Parquet artifact, a folder of its shards, or a run's folder (`show PATH`)
    python -m stages.inspect trace RUN ID    all that belongs to a prompt, a candidate or a pair, as a tree
    python -m stages.inspect why RUN ID      why a prompt gave a pair, or none, in each iteration
    python -m stages.inspect diff A B        what differs between two runs, or two iterations (RUN/iter-1 RUN/iter-2)

Reads:  the tables of a run, whatever version of the code wrote them, whether the run has ended or not.
Does:   describes, joins by key, compares. Texts of models are shown as plain text: nothing in them is executed, or
        commands the terminal.
Writes: a page, or JSON (docs/inspecting.md), to standard output; no file.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from rich.console import Console

from stages.config import Section
from stages.contracts.cli import checked, errors_told
from stages.inspection.artifact import artifact
from stages.inspection.difference import difference
from stages.inspection.lineage import lineage
from stages.inspection.overview import overview
from stages.inspection.pages import artifact_page, difference_page, run_page
from stages.inspection.parquet import files
from stages.inspection.plain import as_json, harmless
from stages.inspection.reasons import reasons
from stages.inspection.run_folder import found, opened
from stages.inspection.trees import lineage_page, reasons_page

CHARACTERS = 100
"""Characters of a text that a page shows."""
WIDTH = 160
"""Characters of a line where the output is no terminal."""
PAGES = {
    "artifact": artifact_page,
    "run": run_page,
    "lineage": lineage_page,
    "reasons": reasons_page,
    "difference": difference_page,
}
"""Pages by the kind of the document."""
ASKED = {"show": "PATH", "trace": "RUN ID", "why": "RUN ID", "diff": "A B"}


class Args(Section):
    """Command line of the stage."""

    question: Literal["show", "trace", "why", "diff"] = Field(description="What is asked.")
    path: Path = Field(description="File or folder; the run of `trace` and `why`; the first side of `diff`.")
    other: str = Field("", description="The key of `trace` and `why`, the second side of `diff`.")
    rows: int = Field(2, ge=0, description="Sample rows of an artifact.")
    whole: bool = Field(False, description="Show texts in full.")
    script: bool = Field(False, description="Print JSON.")


def parsed(words: list[str]) -> Args:
    """The command line; a path alone is shown. Ends the program for one that asks nothing known."""
    named = not words or words[0] in ASKED or words[0].startswith("-")
    parser = argparse.ArgumentParser(
        prog="python -m stages.inspect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    questions = parser.add_subparsers(dest="question", required=True, metavar="{show,trace,why,diff}")
    for question, given in ASKED.items():
        own = questions.add_parser(question)
        for field, name in zip(("path", "other"), given.split(), strict=False):
            own.add_argument(field, metavar=name, help=Args.model_fields[field].description)
        if question == "show":
            own.add_argument("--rows", default=2, help=f"{Args.model_fields['rows'].description} [default: 2]")
        own.add_argument("--whole", action="store_true", help=Args.model_fields["whole"].description)
        own.add_argument("--json", dest="script", action="store_true", help=Args.model_fields["script"].description)
    return checked(Args, vars(parser.parse_args(words if named else ["show", *words])))


def document(args: Args) -> dict[str, Any]:
    """The answer to a question as plain values, `kind` says of which form; StageError for what cannot be read."""
    if args.question == "show":
        run = found(args.path)
        shown = run is None and (files(args.path) or args.path.suffix == ".parquet")
        return artifact(args.path, args.rows) if shown else overview(run or opened(args.path))
    if args.question == "diff":
        return difference(opened(args.path), opened(Path(args.other)))
    return (lineage if args.question == "trace" else reasons)(opened(args.path), args.other)


def main(args: Args) -> None:
    """Find the answer and print it."""
    console = Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    answer = document(args)
    if args.script:
        console.out(as_json(answer), highlight=False)
    else:
        plain = harmless(answer)
        console.print(PAGES[answer["kind"]](plain, None if args.whole else CHARACTERS))
        for problem in plain.get("problems", []):
            console.print(f"Problem: {problem}")


if __name__ == "__main__":
    with errors_told():
        main(parsed(sys.argv[1:]))
