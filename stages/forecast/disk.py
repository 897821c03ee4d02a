"""Disk space of a run, from tokens and the number of weights. Pure; bytes."""

from collections.abc import Iterable
from dataclasses import dataclass

from stages.config.whole import Config
from stages.forecast.amounts import NONE, Amount
from stages.forecast.memory import WIDTH, optimizer_bytes
from stages.forecast.requests import Asked

BYTES_PER_TOKEN = 8
"""Of a token in a table: its id (4) and about four characters of text, before compression."""
FORMULAS = {
    "tables": f"{BYTES_PER_TOKEN} bytes per token that is kept, before compression: each distinct prompt once, and all "
    "that is generated",
    "models": "P w each: one per iteration, with EFT model 0 too (with IFT a third); the base model is linked",
    "checkpoints": "P (w + o) each, o = 8 bytes of Adam's moments, in bfloat16 12 with fp32 weights: "
    "train.keep_checkpoints and the one that is being written; they go when the model is saved",
}


@dataclass(frozen=True)
class Disk:
    """Bytes; see `FORMULAS`. None where the number of weights is not known."""

    tables: Amount
    models: int | None
    checkpoints: int | None
    """While a training runs."""


def disk(config: Config, asked: Iterable[Asked], parameters: int | None) -> Disk:
    """Space for a run whose model has so many weights."""
    tables = sum((one.kept_tokens for one in asked), NONE).by(BYTES_PER_TOKEN)
    if parameters is None:
        return Disk(tables, None, None)
    width = WIDTH[config.megatron.dtype]
    models = config.run.iterations + config.eft.enabled * (1 + (config.eft.ift_fraction > 0))
    checkpoint = parameters * (width + optimizer_bytes(config.megatron))
    return Disk(tables, models * parameters * width, (config.train.keep_checkpoints + 1) * checkpoint)
