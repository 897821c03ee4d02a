"""Ranks on this machine: a program that is to run on several starts them itself, with torchrun's own agent."""

import functools
import importlib
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from stages.contracts import cli
from stages.contracts.errors import StageError

SECONDS_TO_STOP = "600"
"""Ranks that are told to stop save first, and the 30 seconds of the agent are few. A cluster may give less."""


def on_ranks(*preload: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Let `main(args)` run on `args.megatron.processes` ranks; where torchrun started this process, it is one of them.

    On CPUs the ranks are forked from this process, which has imported everything by then, the modules `preload` too: of
    Python, torch, Megatron and NeMo each start costs seconds. CUDA does not survive a fork: on GPUs each starts anew.
    """

    def decorate(main: Callable[[Any], None]) -> Callable[[Any], None]:
        @functools.wraps(main)
        def launched(args: Any) -> None:
            if "RANK" in os.environ or args.megatron.processes == 1:
                main(args)
                return
            forked = not torch.cuda.is_available()
            for module in preload if forked else ():
                quietly_imported(module)
            _start(launched, args, args.megatron.processes, "fork" if forked else "spawn")

        return launched

    return decorate


def quietly_imported(module: str) -> Any:
    """A module whose import would tell each rank's log of telemetry that nobody collects."""
    logging.disable(logging.WARNING)
    try:
        return importlib.import_module(module)
    finally:
        logging.disable(logging.NOTSET)


def _start(main: Callable[[Any], None], args: Any, ranks: int, method: str) -> None:
    """Run `main(args)` in so many new processes; when one fails, the others are ended.

    A rank that fails tells its error itself (see `cli.errors_told`). Raises StageError for one that could not.
    """
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SECONDS_TO_STOP)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read where torch is loaded anew: ranks share the cores
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=ranks,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        start_method=method,
    )
    try:
        elastic_launch(config, _rank)(main, args)
    except SignalException as told:
        for rank in multiprocessing.active_children():
            rank.terminate()  # the agent does not know those that it was about to start
        sys.exit(128 + told.sigval)
    except ChildFailedError as failed:
        number, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise StageError(f"rank {number} was ended by {name}; rerun, with more memory if it ran out") from None
        sys.exit(1)


def _rank(main: Callable[[Any], None], args: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)  # a forked rank has those of the agent, which end ranks
    with cli.errors_told():
        main(args)
