"""The Slurm that these tests share, and what a run comes to without it. Where there can be none, they say why."""

from collections.abc import Iterator

import pytest

from tests.support.slurm_cluster import slurm, why_not
from tests.support.slurm_run import SMALL, model
from tests.support.workflow_run import Run


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Slurm of two nodes that are idle."""
    if reason := why_not():
        pytest.skip(reason)
    with slurm(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture(scope="session")
def undisturbed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The first iteration on this machine, without any cluster."""
    run = Run(tmp_path_factory.mktemp("undisturbed"), SMALL)
    run.snakemake("--", str(model(run)))
    return run
