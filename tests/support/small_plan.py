"""A small configuration to plan, and mean lengths; no file of it is there."""

from typing import Any

from stages.config.whole import Config, load
from stages.forecast.means import Means
from tests.support.workflow_run import merge

SMALL = {
    "run": {"model": "none", "iterations": 2},
    "engine": {"max_sequence_length": 1000},
    "ingest": {"sources": ["none.jsonl"]},
    "select": {"prompts": [10, 20]},
    "candidates": {"samples": 4, "sampling": {"max_tokens": 100}},
    "judge": {"votes": 3, "sampling": {"max_tokens": 50}},
    "meta_judge": {"enabled": [True, False], "sampling": {"max_tokens": 80}},
    "create": {"enabled": [False, True], "count": 7, "sampling": {"max_tokens": 60}},
    "pairs": {"judge_share": [0.2, 0.0]},
    "megatron": {"max_sequence_length": 1000},
    "train": {"epochs": 2, "batch_size": 4},
    "evaluate": {"prompts": "none.jsonl", "samples": 2, "sampling": {"max_tokens": 100}},
}
EFT = {
    "eft": {"enabled": True, "sources": ["none.jsonl"], "votes": 2, "epochs": 1, "batch_size": 8},
    "evaluate": {"judge_votes": 2, "meta_comparisons": 5},
}
MEANS = Means(20, 30, 90, 25, 140, 40, 200, 15, shares={"train": 0.5, "meta_judge": 0.5, "sft": 0.25})


def small(**overlay: Any) -> Config:
    """The configuration with some keys changed."""
    return load(merge(SMALL, overlay))
