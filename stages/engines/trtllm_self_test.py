"""The `trtllm` engine checked against the library that is installed, on a machine with GPUs.

    python -m stages.engines.trtllm --self-test MODEL [--settings JSON]

The engine is written from the library's sources, and its tests use a double. Here each point has a verdict: `ok`,
`FAILED` (the library does otherwise: do not trust a run), or `unknown` (this model or release does not show it), with
what was seen. The exit code is 1 if any failed.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stages.config import EngineSettings
from stages.contracts.errors import StageError
from stages.engines.trtllm import SHUTDOWN_SECONDS, TrtllmEngine
from stages.engines.trtllm_points import POINTS, Bench
from stages.engines.trtllm_watch import leave, returns_within

SMALL: dict[str, Any] = {
    **{"backend": "trtllm", "max_sequence_length": 2048, "stall_seconds": 300},
    "trtllm": {"max_num_tokens": 1024, "max_batch_size": 32},
}
"""Settings under which every point shows: a prompt may be longer than one step."""


def verdict(bench: Bench, number: int) -> bool | None:
    """Check one point and print what was found; end the process if the engine is gone."""
    point = POINTS[number]
    try:
        holds, seen = point(bench)
    except StageError as error:
        tell(point.__name__, False, str(error))
        for other in POINTS[number + 1 :]:
            tell(other.__name__, None, "not reached")
        leave(error)
    except Exception as error:
        holds, seen = False, f"{type(error).__name__}: {error}"
    tell(point.__name__, holds, seen)
    return holds


def tell(point: str, holds: bool | None, seen: str) -> None:
    """Print one line."""
    state = {True: "ok", False: "FAILED", None: "unknown"}[holds]
    print(f"{state:8}{point.replace('_', ' ')}: {' '.join(seen.split())}", flush=True)


def self_test(model: Path, settings: EngineSettings) -> bool:
    """Print a verdict for each point; whether none failed. Raises StageError if the engine cannot be opened."""
    engine = TrtllmEngine(model, settings)
    started = time.monotonic()
    engine.__enter__()
    tell("start", True, f"loaded in {time.monotonic() - started:.0f} s")
    bench = Bench(engine)
    sound = [verdict(bench, number) is not False for number in range(len(POINTS))]
    started = time.monotonic()
    stops = returns_within(SHUTDOWN_SECONDS, engine.llm.shutdown)
    tell("shutdown", stops, f"{time.monotonic() - started:.0f} s")
    if not stops:
        leave(StageError("TensorRT-LLM does not shut down"))
    return all(sound)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; ends with exit code 1 if a point failed."""
    parser = argparse.ArgumentParser(prog="python -m stages.engines.trtllm", description="Check the trtllm engine.")
    parser.add_argument("--self-test", required=True, type=Path, metavar="MODEL", help="Hugging Face model directory")
    parser.add_argument("--settings", default="{}", metavar="JSON", help="of `engine`, beside or instead of small ones")
    given = parser.parse_args(argv)
    own = json.loads(given.settings)
    settings = {**SMALL, **own, "trtllm": {**SMALL["trtllm"], **own.get("trtllm", {})}}
    try:
        sound = self_test(given.self_test, EngineSettings(**settings))
    except (StageError, ValueError) as error:
        tell("start", False, str(error))
        sound = False
    sys.exit(0 if sound else 1)
