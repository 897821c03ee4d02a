"""A program starts its own ranks; that it ends them well is in test_interrupted_training."""

import pytest

from tests.probes.launched import as_on_gpus
from tests.support.ranks import succeed


@pytest.mark.slow
def test_on_gpus_ranks_start_anew(tmp_path):
    """A fork would not do there; the function that they run must then be found by name in a new process."""
    succeed(as_on_gpus, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0 of 2", "1 of 2"]
