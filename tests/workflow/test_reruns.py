"""What a changed setting does to a finished run: only what decides results makes anything anew, and only what uses it.

`pytest tests/workflow/test_reruns.py -m 'exhaustive or not exhaustive'` also changes each such key by itself.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from stages.config import decides
from stages.config.whole import Config
from tests.support.workflow_run import Run

pytestmark = pytest.mark.slow

FREE: list[dict[str, Any]] = [
    {
        "run": {"shards": 3},
        "engine": {
            "threads": 2,
            "batch_tokens": 2000,
            "trtllm": {
                "tensor_parallel_size": 2,
                "pipeline_parallel_size": 2,
                "max_num_tokens": 4096,
                "max_batch_size": 8,
                "kv_cache_fraction": 0.5,
                "block_reuse": False,
            },
        },
        "score": {"min_parse_rate": 0.1, "max_top_share": 0.99},
        "megatron": {
            "processes": 1,
            "threads": 2,
            "distributed_optimizer": True,
            "recompute": True,
            "attention": "eager",
            "micro_batch_tokens": 2048,
            "packing": False,
            "share_prompts": False,
            "loss_logits_only": False,
            "logprob_chunk_tokens": 64,
            "peak_tflops": 0.1,
        },
        "train": {"loggers": [], "checkpoint_every_steps": 5, "keep_checkpoints": 1, "max_bad_steps": 9},
    },
    {"megatron": {"processes": 4, "nodes": 2, "tensor_parallel": 2, "sequence_parallel": True}},
    {"megatron": {"processes": 4, "pipeline_parallel": 4, "pipeline_chunks": 2}},
    {"megatron": {"context_parallel": 2}},
]
"""Every setting that decides no results, with another value than in the run; those of one entry go together."""


def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield from leaves(value, f"{path}{name}.") if isinstance(value, dict) else [path + name]


def keys(section: type[BaseModel], path: str = "") -> Iterator[tuple[str, str]]:
    """Every key of the configuration, and what it decides."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from keys(kind, f"{path}{name}.")
        else:
            yield path + name, decides(field)


def test_every_such_key_is_tried_here() -> None:
    tried = [key for entry in FREE for key in leaves(entry)]
    assert set(tried) == {key for key, what in keys(Config) if what != "results"}


@pytest.mark.parametrize("changed", FREE, ids=["most", "tensor_parallel", "pipeline_parallel", "context_parallel"])
def test_what_decides_no_results_makes_nothing_anew(finished: Run, changed: dict[str, Any]) -> None:
    assert finished.planned(**changed) == {}
