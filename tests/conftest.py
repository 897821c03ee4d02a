"""Shared fixtures: a tiny model directory with everything that a real one has."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.tiny_model import write_tokenizer

# A busy machine must not fail a test that is right.
settings.register_profile("no_deadline", deadline=None)
settings.load_profile("no_deadline")


WAIT = {"test_interrupted_jobs.py", "test_reruns.py"}  # for the run that test_pipeline.py begins with


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On several workers, which take one file after the other: first the files with most slow tests, then those
    that wait for what another worker runs, then the fast ones."""
    if hasattr(config, "workerinput"):
        slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: (not slow[item.path], item.path.name in WAIT, -slow[item.path]))


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama (hidden 64, 2 layers, grouped-query attention) as a Hugging Face directory."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny_model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        eos_token_id=4,
        pad_token_id=0,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder
