"""The one real run that tests of the workflow share."""

import fcntl

import pytest

from tests.support.workflow_run import Run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Run:
    """A finished run; every process in it but `evaluate` was barred from the oracle's files. Of several workers, the
    first one runs it, and the others wait."""
    shared = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        shared = shared.parent
    folder = shared / "finished"
    with open(shared / "finished.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder.mkdir(exist_ok=True)
        run = Run(folder, {})
        if not (folder / "done").exists():
            run.snakemake()
            (folder / "done").touch()
    return run
