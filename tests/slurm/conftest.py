"""The Slurm that these tests share. Where there can be none, they are skipped, and say why."""

from collections.abc import Iterator

import pytest

from tests.support.slurm_cluster import slurm, why_not


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Slurm of two nodes that are idle."""
    if reason := why_not():
        pytest.skip(reason)
    with slurm(tmp_path_factory.mktemp("slurm")):
        yield
