"""A program that runs on several ranks, as light as can be."""

import os
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

from stages.config import MegatronSettings
from stages.megatron import launch


@launch.on_ranks()
def main(args: SimpleNamespace) -> None:
    """Leave a file named for the rank."""
    (args.folder / f"{os.environ['RANK']} of {os.environ['WORLD_SIZE']}").touch()


def as_on_gpus(folder: Path) -> None:
    """`main` on two ranks that are started anew, not forked."""
    with patch.object(launch.torch.cuda, "is_available", lambda: True):
        main(SimpleNamespace(folder=folder, megatron=MegatronSettings(processes=2)))
