"""The one real run that tests of whole runs share: fixtures, which their folders import into a `conftest.py`."""

import fcntl
import time
from collections.abc import Callable

import pytest

from tests.support.workflow_run import Run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Run:
    """A finished run; every process in it but `evaluate` was barred from the oracle's files."""
    return shared_run(tmp_path_factory, request, lambda run: (run.folder / "done").exists())


@pytest.fixture(scope="session")
def first_iteration(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Run:
    """The same run once its first iteration has ended; the second may still be going on."""
    return shared_run(tmp_path_factory, request, lambda run: (run.path / "models/1/manifest.json").exists())


def shared_run(folders: pytest.TempPathFactory, request: pytest.FixtureRequest, is_ready: Callable[[Run], bool]) -> Run:
    """Of several workers, the first one runs it, and the others wait until it is ready for them."""
    shared = folders.getbasetemp()
    if hasattr(request.config, "workerinput"):
        shared = shared.parent
    folder = shared / "finished"
    folder.mkdir(exist_ok=True)
    run = Run(folder, {})
    with open(shared / "finished.lock", "w") as lock:
        while not is_ready(run):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.2)
                continue
            if not (folder / "done").exists():
                run.snakemake()
                (folder / "done").touch()
    return run
