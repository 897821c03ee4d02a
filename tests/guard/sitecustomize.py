"""Put on PYTHONPATH by tests: in this environment no process but `stages.evaluate` can open the oracle's files."""

import sys
from pathlib import Path

SECRETS = {
    str(Path(__file__).parents[2] / "examples/tinyworld" / name) for name in ("world.py", "oracle.py", "speakers.py")
}


def _guard(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and str(arguments[0]) in SECRETS and "stages.evaluate" not in sys.orig_argv:
        raise PermissionError(f"the loop must not read the oracle: {arguments[0]} by {sys.orig_argv}")


sys.addaudithook(_guard)
