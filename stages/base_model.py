"""Take model 0 into the run: check that it is complete, and give its content an identity.

Reads   a Hugging Face model directory.
Does    refuses a directory without configuration, safetensors weights, tokenizer, chat template or end-of-turn token.
Writes  `models/0/` with links to its files, and `manifest.json` (`--output`) with their digests.
"""

import json
import sys
from pathlib import Path

from pydantic import Field

from stages.chat import ChatTokenizer
from stages.cli import run
from stages.config import Section
from stages.errors import StageError
from stages.manifest import write_manifest


class Args(Section):
    """Command-line flags."""

    model: Path = Field(description="Hugging Face directory of model 0.")
    output: Path = Field(description="manifest.json of the run's model 0.")


def main(args: Args) -> None:
    """Check and link."""
    check(args.model)
    directory = args.output.parent
    directory.mkdir(parents=True, exist_ok=True)
    for path in sorted(args.model.iterdir()):
        link = directory / path.name
        if path.is_file() and path.name != args.output.name:
            link.unlink(missing_ok=True)
            link.symlink_to(path.resolve())
    write_manifest(directory)
    print(f"model 0 is {args.model}, digest {json.loads(args.output.read_text())['digest']}", file=sys.stderr)


def check(model: Path) -> None:
    """StageError that names what a model directory lacks."""
    if not model.is_dir():
        raise StageError(f"{model}: no such directory; run.model must be a Hugging Face model directory")
    if not (model / "config.json").is_file():
        raise StageError(f"{model}: no config.json; run.model must be a Hugging Face model directory")
    if not any(model.glob("*.safetensors")):
        raise StageError(f"{model}: no *.safetensors file; convert the weights, nothing is unpickled")
    tokenizer = ChatTokenizer(model)
    vocabulary = json.loads((model / "config.json").read_text()).get("vocab_size", 0)
    highest = max(tokenizer.stop_ids)
    if highest >= vocabulary:
        raise StageError(
            f"{model}: the tokenizer's stop token {highest} lies outside the model's vocabulary ({vocabulary}): "
            "tokenizer and model do not belong together"
        )


if __name__ == "__main__":
    run(Args, main)
