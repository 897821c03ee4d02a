"""Convert a GGUF file, as programs for laptops have them, to the model directory that `run.model` takes.

    python -m stages.convert --gguf SmolLM2-135M-Instruct.Q4_1.gguf --output models/smollm2

Reads:  a GGUF file with weights, chat template and tokenizer (or the tokenizer of `--tokenizer`).
Does:   dequantises the weights (Transformers, by the `gguf` package); what quantising took from them stays lost.
        Refuses what the pipeline could not train: an unsupported architecture, no chat template, a tokenizer that does
        not fit, or that is described in a way whose splitting of text nobody has compared with llama.cpp's.
Writes: a Hugging Face model directory in float32, or `--dtype`; nothing where one is already.
"""

import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from gguf import GGUFReader
from pydantic import Field
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel
from transformers.utils import logging

from stages.config import Section
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.files import ordinary_mode
from stages.model_files.config import read_config
from stages.model_files.manifest import move_model, write_manifest
from stages.prompting.chat import ChatTokenizer

MAGIC = b"GGUF"
LOCAL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False)
SPLITS = {"gpt-2": BYTES, "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), BYTES])}
"""How text is split before its parts become tokens, by the name that GGUF has for it (`tokenizer.ggml.pre`)."""


class Args(Section):
    """Command line of the converter."""

    gguf: Path = Field(description="GGUF file.")
    output: Path = Field(description="Output: model directory, which must not exist or be empty.")
    tokenizer: Path | None = Field(
        None, description="Directory with the original model's tokenizer and chat template; unset: the file's own."
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="Type of the weights.")


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Within, what Transformers raises about a file is a StageError that names it."""
    try:
        yield
    except (ImportError, LookupError, NotImplementedError, OSError, TypeError, ValueError, struct.error) as error:
        raise StageError(f"{path}: cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}") from error


def read_model(path: Path, dtype: str) -> PreTrainedModel:
    """The model with plain weights. StageError for a family or quantisation that Transformers cannot read."""
    with told(path):
        read = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype, **LOCAL)
    # The model as it was read remembers that it was quantised, and refuses to be saved.
    config = type(read.config).from_dict({k: v for k, v in read.config.to_dict().items() if k != "quantization_config"})
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.load_state_dict(read.state_dict())
    return model


def read_tokenizer(path: Path) -> Any:
    """The tokenizer of a GGUF file. StageError for one that splits text in a way that is not in SPLITS."""
    with told(path):
        field = GGUFReader(path).get_field("tokenizer.ggml.pre")
    split = str(field.contents()) if field else "none"
    if split not in SPLITS:
        raise StageError(
            f"{path}: its tokenizer splits text as `{split}`, known are {', '.join(SPLITS)}; give the original model's "
            "tokenizer.json and chat template with --tokenizer DIRECTORY"
        )
    with told(path):
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, **LOCAL)
    tokenizer.backend_tokenizer.pre_tokenizer = SPLITS[split]
    return tokenizer


def own_tokenizer(directory: Path) -> Any:
    """The tokenizer of a model directory."""
    with told(directory):
        return AutoTokenizer.from_pretrained(directory, **LOCAL)


def save(model: PreTrainedModel, tokenizer: Any, directory: Path) -> None:
    """Write a complete model directory; StageError if the pipeline could not use it."""
    ends = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=tokenizer.pad_token_id or ends)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    ChatTokenizer(directory).check_fits(read_config(directory).vocabulary)
    for path in directory.iterdir():
        path.chmod(ordinary_mode())
    write_manifest(directory)


def main(args: Args) -> None:
    """Read, save beside, check, move into place."""
    if args.output.exists() and any(args.output.iterdir()):
        raise StageError(f"{args.output}: exists already; nothing is overwritten")
    if not args.gguf.is_file():
        raise StageError(f"{args.gguf}: no such file")
    if args.gguf.open("rb").read(4) != MAGIC:
        raise StageError(f"{args.gguf}: not a GGUF file")
    logging.disable_progress_bar()
    tokenizer = read_tokenizer(args.gguf) if args.tokenizer is None else own_tokenizer(args.tokenizer)
    model = read_model(args.gguf, args.dtype)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output.parent, prefix=f".{args.output.name}-") as beside:
        made = Path(beside) / "model"
        save(model, tokenizer, made)
        move_model(made, args.output)
    print(f"convert: {model.num_parameters() / 1e6:.1f} million parameters in {args.output}", file=sys.stderr)


if __name__ == "__main__":
    run(Args, main)
