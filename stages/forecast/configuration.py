"""The configuration of a run from files, laid over each other as Snakemake does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError
from snakemake.utils import update_config

from stages.config.whole import Config, load
from stages.contracts.errors import StageError


def configured(paths: Sequence[Path]) -> Config:
    """What `--configfile` makes of these files: later ones win, key by key. StageError names what is wrong."""
    values: dict[str, Any] = {}
    for path in paths:
        if not path.is_file():
            raise StageError(f"{path}: no such file")
        try:
            update_config(values, load_configfile(str(path)))
        except (WorkflowError, OSError, ValueError) as error:
            raise StageError(f"{path}: not a configuration: {' '.join(str(error).split())}") from None
    return load(values)
