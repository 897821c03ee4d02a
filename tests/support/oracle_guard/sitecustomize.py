"""Put on PYTHONPATH by tests: in this environment no process but `stages.evaluate` can open the oracle's files."""

import sys
from pathlib import Path

WORLD = Path(__file__).parents[3] / "examples/tinyworld"
SECRETS = ("world", "oracle", "speakers")
EXEMPT = ("stages.evaluate", "snakemake")  # Snakemake only takes the file's checksum


def _guard(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or any(name in sys.orig_argv for name in EXEMPT):
        return
    path = Path(str(arguments[0])).absolute()
    # Bytecode counts: `__pycache__/world.cpython-311.pyc` tells as much as `world.py`.
    if WORLD in path.parents and path.name.split(".")[0] in SECRETS:
        raise PermissionError(f"the loop must not read the oracle: {path} by {sys.orig_argv}")


sys.addaudithook(_guard)
