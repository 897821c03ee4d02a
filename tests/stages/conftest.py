"""What several stages start from."""

import pytest

from tests.support.preference_task import logprobs, save_preferences


@pytest.fixture(scope="session")
def preferences(tiny_model_dir, tmp_path_factory):
    """Pairs and their log-probabilities under the tiny model."""
    folder = tmp_path_factory.mktemp("preferences")
    pairs = save_preferences(folder / "pairs.parquet")
    return {"model": tiny_model_dir, "pairs": pairs, "reference_logprobs": logprobs(tiny_model_dir, pairs, folder)}
