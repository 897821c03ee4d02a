"""Take the base model into the run: check that it is complete, and give its content an identity.

It is model 0; where EFT is on, what EFT makes model 0 of.

Reads:  a Hugging Face model directory.
Does:   refuses a directory that lacks a supported configuration, safetensors weights, tokenizer or chat template.
Writes: the folder of `--output` (`models/0/`, with EFT `models/base/`) with links to its files, and `manifest.json`
        with their digests.
"""

import json
import sys
from pathlib import Path

from pydantic import Field

from stages.config import Section
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.model_files.config import read_config
from stages.model_files.manifest import write_manifest
from stages.prompting.chat import ChatTokenizer


class Args(Section):
    """Command line of the stage."""

    model: Path = Field(description="Hugging Face directory of the base model.")
    output: Path = Field(description="manifest.json of its folder in the run.")


def check(model: Path) -> None:
    """StageError that names what a model directory lacks."""
    if not model.is_dir():
        raise StageError(f"{model}: no such directory; run.model must be a Hugging Face model directory")
    if not any(model.glob("*.safetensors")):
        raise StageError(f"{model}: no *.safetensors file; convert the weights, nothing is unpickled")
    ChatTokenizer(model).check_fits(read_config(model).vocabulary)


def main(args: Args) -> None:
    """Check and link."""
    check(args.model)
    directory = args.output.parent
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.iterdir():  # links to a model that the run started from before
        old.unlink()
    for path in sorted(args.model.iterdir()):
        link = directory / path.name
        if path.is_file() and path.name != args.output.name:
            link.symlink_to(path.resolve())
    write_manifest(directory)
    print(
        f"the base model is {args.model}, digest {json.loads(args.output.read_text(encoding='utf-8'))['digest']}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    run(Args, main)
