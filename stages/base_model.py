"""Take the base model into the run: check that it is complete, and give its content an identity.

It is model 0; where EFT is on, what EFT makes model 0 of.

Reads:  a Hugging Face model directory.
Does:   refuses a directory that lacks a supported configuration, safetensors weights, tokenizer or chat template, has
        files that are cut short, or others than its own manifest lists.
Writes: the folder of `--output` (`models/0/`, with EFT `models/base/`) with links to its files, and `manifest.json`
        with their digests.
"""

import json
import os
import sys
from pathlib import Path

from pydantic import Field

from stages.config import Section
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.model_files.config import read_config
from stages.model_files.lengths import check_lengths
from stages.model_files.manifest import model_digest, write_manifest
from stages.prompting.chat import ChatTokenizer


class Args(Section):
    """Command line of the stage."""

    model: Path = Field(description="Hugging Face directory of the base model.")
    output: Path = Field(description="manifest.json of its folder in the run.")


def check(model: Path) -> None:
    """StageError that names what a model directory lacks, or what of it is damaged."""
    if not model.is_dir():
        raise StageError(f"{model}: no such directory; run.model must be a Hugging Face model directory")
    if not any(model.glob("*.safetensors")):
        raise StageError(f"{model}: no *.safetensors file; convert the weights, nothing is unpickled")
    ChatTokenizer(model).check_fits(read_config(model).vocabulary)
    check_lengths(model)
    if (model / "manifest.json").exists():
        model_digest(model)


def link(file: Path, directory: Path) -> None:
    """A link to a file; where both lie in this folder, one that stays right when the folder is moved."""
    here, target, folder = Path.cwd(), file.resolve(), directory.resolve()
    together = target.is_relative_to(here) and folder.is_relative_to(here)
    (directory / file.name).symlink_to(os.path.relpath(target, folder) if together else target)


def main(args: Args) -> None:
    """Check and link."""
    check(args.model)
    directory = args.output.parent
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():  # links to a model that the run started from before
        old.unlink()
    for path in sorted(args.model.iterdir()):
        if path.is_file() and path.name != args.output.name:
            link(path, directory)
    write_manifest(directory)
    print(
        f"the base model is {args.model}, digest {json.loads(args.output.read_text(encoding='utf-8'))['digest']}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    run(Args, main)
