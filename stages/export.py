"""Export: a run's preference pairs, or supervised examples, in the layout of another trainer.

    python -m stages.export RUN --to trl --output FOLDER
    python -m stages.export RUN --to h4 --iteration 1 2 --kind actor --output FOLDER
    python -m stages.export RUN/eft/examples.parquet --to llama-factory --output FOLDER

Reads:  the pairs of a run's iterations, or one table of pairs or of supervised examples.
Does:   lays each row out as the trainer reads it (docs/exporting.md); texts stay as they are. A prompt's hash decides
        whether it is for training or for testing. Rows that a layout cannot hold are listed with the reason.
Writes: a folder with the data, `manifest.json` (sources, files, digests, counts) and, where rows are left out,
        `left_out.jsonl`; nothing where there is something already.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from stages import __version__
from stages.config import Section, Share
from stages.contracts.artifacts import read
from stages.contracts.cli import checked, errors_told
from stages.contracts.errors import StageError
from stages.contracts.files import file_digest
from stages.contracts.ids import prompt_id, split_position
from stages.exporting.folder import appearing, dataset_info, refuse_existing, write_json, write_rows
from stages.exporting.layouts import LAYOUTS, REFUSALS, Layout, Row
from stages.inspection.parquet import described
from stages.inspection.run_folder import opened
from stages.tables import PAIRS, SFT_EXAMPLES

PAIR_COLUMNS = ["pair_id", "kind", "prompt_id", "prompt", "chosen", "rejected", "score_chosen", "score_rejected"]
EXAMPLE_COLUMNS = ["example_id", "messages", "prompt_loss_weight"]


class Args(Section):
    """Command line of the stage."""

    source: Path = Field(description="A run's folder or that of an iteration; a table of pairs or examples (Parquet).")
    to: Literal["trl", "h4", "nemo-rl", "openrlhf", "llama-factory", "open-instruct"] = Field(description="Layout.")
    output: Path = Field(description="Output: folder, which must not exist or be empty.")
    iteration: list[int] = Field([], description="Iterations of the run; without any, all that have pairs.")
    kind: Literal["actor", "judge", "both"] = Field("both", description="Pairs to answer by, to judge by, or both.")
    test_share: Share | None = Field(
        None, description="Share of the prompts that are for testing [default: 0.1 of h4, else 0]."
    )


class Sorted(NamedTuple):
    """Rows in a layout by split, and those that it cannot hold."""

    parts: dict[str, list[Row]]
    left_out: list[Row]


def parsed(words: list[str]) -> Args:
    """The command line. Ends the program for one that lacks something."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    fields = Args.model_fields
    parser.add_argument("source", metavar="RUN_OR_TABLE", help=fields["source"].description)
    parser.add_argument("--to", required=True, choices=LAYOUTS, help=fields["to"].description)
    parser.add_argument("--output", required=True, metavar="FOLDER", help=fields["output"].description)
    parser.add_argument("--iteration", nargs="+", default=[], metavar="N", help=fields["iteration"].description)
    parser.add_argument("--kind", choices=["actor", "judge", "both"], default="both", help=fields["kind"].description)
    parser.add_argument("--test-share", metavar="SHARE", help=fields["test_share"].description)
    return checked(Args, vars(parser.parse_args(words)))


def sources(args: Args) -> list[Path]:
    """The tables to read; StageError for iterations without pairs."""
    if args.source.suffix == ".parquet":
        if args.iteration:
            raise StageError(f"--iteration chooses among those of a run, but {args.source} is one table")
        return [args.source]
    run = opened(args.source)
    known = [number for number in run.iterations if run.has(number, "pairs.parquet")]
    if lost := sorted({*args.iteration} - {*known}):
        there = ", ".join(map(str, known)) or "none"
        raise StageError(f"{args.source}: iteration {lost[0]} has no pairs; those that have: {there}")
    if not known:
        raise StageError(f"{args.source}: no iteration has pairs yet; the first ones come with iter-1/pairs.parquet")
    return [run.folder(number) / "pairs.parquet" for number in sorted({*args.iteration} or known)]


def pair_rows(path: Path, kind: str) -> list[Row]:
    """The pairs of one kind, or of both."""
    rows = read(path, PAIRS, PAIR_COLUMNS).to_dicts()
    return [row for row in rows if kind in (row["kind"], "both")]


def example_rows(path: Path) -> list[Row]:
    """The supervised examples with the keys of their prompts, which decide the split."""
    rows = read(path, SFT_EXAMPLES, EXAMPLE_COLUMNS).to_dicts()
    return [{**row, "prompt_id": prompt_id(row["messages"][:-1])} for row in rows]


def read_rows(paths: Sequence[Path], kind: str) -> tuple[str, dict[Path, list[Row]]]:
    """What the tables hold, and the rows of each; StageError for none, or a kind of what has no kinds."""
    if described(paths[0]).table != SFT_EXAMPLES.name:
        what, rows = "pairs", {path: pair_rows(path, kind) for path in paths}
    elif kind == "both":
        what, rows = "examples", {path: example_rows(path) for path in paths}
    else:
        raise StageError(f"--kind chooses among pairs, but {paths[0]} holds supervised examples")
    if not any(rows.values()):
        wanted = what if kind == "both" else f"{kind} pairs"
        raise StageError(f"{', '.join(map(str, paths))}: no {wanted} to export")
    return what, rows


def sort_rows(rows: Iterable[Row], what: str, layout: Layout, share: float) -> Sorted:
    """Every row is in one of the parts, or left out."""
    key, refusal = REFUSALS[what]
    parts: dict[str, list[Row]] = {"train": [], "test": []}
    left_out = []
    for row in rows:
        if reason := refusal(row, layout.holds):
            left_out.append({key: row[key], "reason": reason})
        else:
            split = "test" if split_position(row["prompt_id"], "export") < share else "train"
            parts[split].append(layout.forms[what].row(row))
    return Sorted({split: part for split, part in parts.items() if part}, left_out)


def write_folder(folder: Path, found: Sorted, layout: Layout, facts: dict[str, Any]) -> None:
    """All files of an export; `facts` are those of the manifest that files do not tell."""
    form = layout.forms[facts["rows"]]
    files = {split: form.file.format(split=split) for split in found.parts}
    for split, rows in found.parts.items():
        write_rows(folder / files[split], rows, form.columns)
    if layout.index:
        write_json(folder / "dataset_info.json", dataset_info(files, facts["rows"]))
    if found.left_out:
        write_rows(folder / "left_out.jsonl", found.left_out, {})
    written = [
        {"path": file, "rows": len(found.parts[split]), "digest": file_digest(folder / file)}
        for split, file in files.items()
    ]
    reasons = Counter(row["reason"] for row in found.left_out)
    write_json(folder / "manifest.json", {**facts, "files": written, "left_out": dict(sorted(reasons.items()))})


def main(args: Args) -> None:
    """Read, lay out, write all or nothing."""
    refuse_existing(args.output)
    what, rows = read_rows(sources(args), args.kind)
    layout = LAYOUTS[args.to]
    share = layout.test_share if args.test_share is None else args.test_share
    found = sort_rows(chain.from_iterable(rows.values()), what, layout, share)
    if not found.parts:
        first = found.left_out[0]["reason"]
        raise StageError(f"{args.source}: layout {args.to} can hold none of {len(found.left_out)} {what}: {first}")
    facts = {
        "layout": args.to,
        "rows": what,
        "version": __version__,
        "kind": args.kind,
        "test_share": share,
        "sources": [{"path": str(path), "rows": len(part), "digest": file_digest(path)} for path, part in rows.items()],
    }
    with appearing(args.output) as folder:
        write_folder(folder, found, layout, facts)
    counts = ", ".join(f"{len(part)} {split}" for split, part in found.parts.items())
    print(f"export: {counts} {what} in {args.output}; left out {len(found.left_out)}", file=sys.stderr)


if __name__ == "__main__":
    with errors_told():
        main(parsed(sys.argv[1:]))
