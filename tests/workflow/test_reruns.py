"""What a changed setting or a lost file does to a finished run: what depends on it is made anew, and nothing else.

`pytest tests/workflow/test_reruns.py -m 'exhaustive or not exhaustive'` also changes each such key by itself.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
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
            "stall_seconds": 60.0,
            "max_failed_share": 0.5,
            "trtllm": {
                "tensor_parallel_size": 2,
                "pipeline_parallel_size": 2,
                "max_num_tokens": 4096,
                "max_batch_size": 8,
                "kv_cache_fraction": 0.5,
                "load_seconds": 60.0,
                "block_reuse": False,
            },
            "server": {
                **{"url": "http://localhost:1", "command": "serve {model} {host} {port}", "key_variable": "KEY"},
                **{"gpus": 2, "concurrency": 8, "retries": 2, "timeout_seconds": 60.0, "start_seconds": 60.0},
                **{"linger_seconds": 60.0, "allow_retokenised": True},
            },
        },
        "environments": {
            **{kind: {"python": f"/opt/{kind}/bin/python"} for kind in ("generate", "train", "data")},
            "mounts": ["/models"],
        },
        "ingest": {"max_bad_rows": 0.5, "strict": True},
        "eft": {"max_bad_rows": 0.5, "strict": True},
        "score": {"min_parse_rate": 0.1, "max_top_share": 0.99, "max_flat_share": 0.99},
        "candidates": {"max_cut_share": 0.99},
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
    {
        "megatron": {"processes": 4, "nodes": 2, "tensor_parallel": 2, "sequence_parallel": True},
        "environments": {
            **{kind: {"container": f"{kind}.sqsh"} for kind in ("generate", "train")},
            "runtime": "pyxis",
        },
    },
    {"megatron": {"processes": 4, "pipeline_parallel": 4}},
    {"megatron": {"context_parallel": 2}},
]
"""Every setting that decides no results, with another value than in the run; those of one entry go together."""


BEFORE_THE_LOOP = dict.fromkeys(["ingest", "ranked", "eft_judge", "eft_score", "eft", "sft"], 0)
LOOP = {
    **{"select": 0, "candidates": 2, "judge": 2, "score": 1, "meta_judge": 0, "rate": 0},
    **{"pairs": 1, "reference_logprobs": 1, "train": 1},
}
"""The rules in their order, and their jobs in the run's second iteration: another model 1 makes those anew."""
SAMPLING = {
    **{"temperature": 0.7, "top_p": 0.9, "top_k": 50, "min_p": 0.1, "repetition_penalty": 1.1},
    **{"max_tokens": 30, "stop": ["Score: 3", "\n"]},
}
OPTIMIZER = {
    **{"learning_rate": 1e-5, "min_learning_rate_ratio": 0.5, "schedule_epochs": 20, "warmup_steps": 1},
    **{"constant_steps": 1, "beta1": 0.8, "beta2": 0.9, "weight_decay": 0.1, "clip_grad": 0.5},
}
VALIDATION = {"fraction": 0.1, "every_steps": 5, "samples": 3}
RESULTS: dict[str, tuple[Any, str]] = {
    "run.seed": (1, "eft_judge"),
    "run.iterations": (1, "report"),
    "chat.date": ("2025-01-01", "ingest"),
    "chat.system_turns": ("merge", "ingest"),
    "chat.train_thoughts": (False, "sft"),
    "engine.dtype": ("bfloat16", "eft_judge"),
    "engine.device": ("cpu", "eft_judge"),
    "engine.max_sequence_length": (300, "eft_judge"),
    "ingest.validation_fraction": (0.1, "ingest"),
    "ingest.max_prompt_characters": (500, "ingest"),
    "eft.language": ("de", "ranked"),
    "eft.max_characters": (300, "ranked"),
    "eft.test_fraction": (0.2, "ranked"),
    "eft.ift_fraction": (0.1, "ranked"),
    "eft.votes": (2, "eft_judge"),
    "eft.agreement": ("pairs", "eft"),
    "eft.tie_tolerance": (0.5, "eft"),
    "eft.allow_ties": (True, "eft"),
    "eft.max_class_share": (0.9, "eft"),
    "eft.max_judgements": (100, "eft"),
    "eft.epochs": (2, "sft"),
    "eft.batch_size": (8, "sft"),
    "eft.overlong": ("refuse", "sft"),
    "create.enabled": (True, "select"),
    "select.prompts": (50, "select"),
    "select.reuse": (True, "select"),
    "candidates.hinted": (1, "candidates"),
    "candidates.samples": (3, "candidates"),
    "judge.votes": (2, "judge"),
    "judge.engine": ({"dtype": "bfloat16"}, "judge"),
    "judge.template": ("prompts/judge.jinja", "eft_judge"),
    "verify.enabled": (True, "judge"),
    "score.pattern": ("strict", "eft_score"),
    "score.low": (1, "eft_score"),
    "score.high": (4, "eft_score"),
    "score.aggregate": ("median", "score"),
    "score.min_votes": (2, "score"),
    "score.exclude_shortened": (True, "score"),
    "meta_judge.enabled": ([True, True], "meta_judge"),
    "meta_judge.model": ("examples/tinyworld/base", "meta_judge"),
    "meta_judge.engine": ({"dtype": "bfloat16"}, "meta_judge"),
    "meta_judge.template": ("prompts/meta_judge.jinja", "meta_judge"),
    "meta_judge.hide_scores": (False, "meta_judge"),
    "meta_judge.max_comparisons": (1, "meta_judge"),
    "rate.pattern": ("Winner: {{ winner }}", "rate"),
    "rate.position_weights": ("none", "rate"),
    "rate.prior": (0.1, "rate"),
    "pairs.length_control": (0.2, "pairs"),
    "pairs.min_margin": (0.5, "pairs"),
    "pairs.min_length_ratio": (0.5, "pairs"),
    "pairs.min_chosen_score": (2.0, "pairs"),
    "pairs.per_prompt": ("all", "pairs"),
    "pairs.max_length_ratio": (2.0, "pairs"),
    "pairs.truncated": ("rejected", "pairs"),
    "pairs.repeat": (True, "pairs"),
    "pairs.judge_share": ([0.1, 0.0], "pairs"),
    "pairs.max_pairs": (50, "pairs"),
    "pairs.max_chosen_tokens": (30, "pairs"),
    "pairs.max_chosen_judgement_tokens": (30, "pairs"),
    "pairs.same_score_judgements": (False, "pairs"),
    "pairs.max_judge_class_share": (0.5, "pairs"),
    "reference.policy": ("initial", "reference_logprobs"),
    "megatron.dtype": ("bfloat16", "sft"),
    "megatron.max_sequence_length": (400, "sft"),
    "train.loss": ("ipo", "train"),
    "train.beta": (0.2, "train"),
    "train.label_smoothing": (0.1, "train"),
    "train.length_normalised": (True, "train"),
    "train.preference_weight": (0.5, "train"),
    "train.sft_weight": (0.1, "train"),
    "train.epochs": (1, "train"),
    "train.batch_size": (8, "train"),
    "train.overlong": ("refuse", "train"),
    "evaluate.max_prompts": (50, "evaluate"),
    "evaluate.samples": (3, "evaluate"),
    "evaluate.judge_votes": (3, "evaluate"),
    "evaluate.meta_comparisons": (30, "evaluate"),
    "evaluate.oracle": (None, "evaluate"),
    "evaluate.head_to_head.enabled": (True, "compare"),
    **{f"candidates.sampling.{name}": (value, "candidates") for name, value in SAMPLING.items()},
    **{f"judge.sampling.{name}": (value, "eft_judge") for name, value in SAMPLING.items()},
    **{f"meta_judge.sampling.{name}": (value, "meta_judge") for name, value in SAMPLING.items()},
    **{f"evaluate.sampling.{name}": (value, "evaluate") for name, value in SAMPLING.items()},
    **{f"eft.optimizer.{name}": (value, "sft") for name, value in OPTIMIZER.items()},
    **{f"eft.validation.{name}": (value, "sft") for name, value in VALIDATION.items()},
    **{f"train.optimizer.{name}": (value, "train") for name, value in OPTIMIZER.items()},
    **{f"train.validation.{name}": (value, "train") for name, value in VALIDATION.items()},
}
"""Another value of what decides results, and the first rule that makes something anew for it."""
OFF: dict[str, Any] = {
    "engine.trtllm.sampler": "TorchSampler",
    "engine.trtllm.kv_cache_dtype": "fp8",
    "engine.trtllm.extra": {"enable_autotuner": False},
    "engine.server.kind": "vllm",
    "engine.server.model": "served",
    "create.count": 5,
    "create.model": "examples/tinyworld/base",
    "create.engine": {"dtype": "bfloat16"},
    "create.template": "prompts/judge.jinja",
    "create.pool_shots": 1,
    "create.created_shots": 1,
    "create.max_similarity": 0.5,
    "create.near_duplicate": 0.5,
    "create.min_characters": 3,
    "create.max_characters": 30,
    "create.keywords": [],
    **{f"create.sampling.{name}": value for name, value in SAMPLING.items()},
    "evaluate.head_to_head.references": True,
    "evaluate.head_to_head.model": "examples/tinyworld/base",
    "evaluate.head_to_head.engine": {"dtype": "bfloat16"},
    "evaluate.head_to_head.template": "prompts/meta_judge.jinja",
    **{f"evaluate.head_to_head.sampling.{name}": value for name, value in SAMPLING.items()},
}
"""Of what the run has switched off."""
NAMES = {
    *("run.name", "run.results", "run.model", "engine.backend"),
    *("chat.template_arguments", "ingest.sources", "eft.sources", "evaluate.judge_tests"),
    *(
        "eft.enabled",
        "evaluate.prompts",
        "verify.judge",
        "score.combine",
        "score.judge_weight",
        "judge.model",
        "judge.panel",
        "pairs.max_pairs_per_prompt",
        "train.margin_scale",
        "train.judge_pair_margin",
    ),
    *(f"{section}.validation.{name}" for section in ("eft", "train") for name in ("answers", "patience", "keep")),
    *(f"{section}.template_arguments" for section in ("judge", "meta_judge", "create")),
    "evaluate.head_to_head.template_arguments",
}
"""Of other files and places, and what no value but its own fits the other settings of the run."""


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


def nested(key: str, value: Any) -> dict[str, Any]:
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


def test_every_key_is_tried_here() -> None:
    """But two: no layout of the demo's four layers has chunks, and test_environments.py has containers of Apptainer."""
    elsewhere = {"megatron.pipeline_chunks", "environments.data.container"}
    free = {key for entry in FREE for key in leaves(entry)}
    assert free | elsewhere == {key for key, what in keys(Config) if what != "results"}
    assert RESULTS.keys() | OFF.keys() | NAMES == {key for key, what in keys(Config) if what == "results"}


@pytest.mark.parametrize("changed", FREE, ids=["most", "tensor_parallel", "pipeline_parallel", "context_parallel"])
def test_what_decides_no_results_makes_nothing_anew(finished: Run, changed: dict[str, Any]) -> None:
    assert "Nothing to be done" in finished.snakemake("--dry-run", **changed)


def test_an_engine_of_a_role_that_gives_the_same_makes_nothing_anew(finished: Run) -> None:
    roles = {"judge": {"engine": {"threads": 2}}, "meta_judge": {"engine": {"batch_tokens": 2000}}}
    assert "Nothing to be done" in finished.snakemake("--dry-run", **roles)


@pytest.mark.exhaustive
@pytest.mark.parametrize("key", RESULTS)
def test_what_decides_results_makes_what_uses_it_anew_and_nothing_before(finished: Run, key: str) -> None:
    value, rule = RESULTS[key]
    planned = finished.planned(**nested(key, value))
    assert rule in planned
    chain = BEFORE_THE_LOOP if rule in BEFORE_THE_LOOP else LOOP
    for earlier in list(chain)[: list(chain).index(rule)] if rule in chain else [*BEFORE_THE_LOOP, *LOOP]:
        assert planned.get(earlier, 0) <= chain.get(earlier, 0), earlier


@pytest.mark.exhaustive
@pytest.mark.parametrize("key", OFF)
def test_settings_of_what_is_off_make_nothing_anew(finished: Run, key: str) -> None:
    assert "Nothing to be done" in finished.snakemake("--dry-run", **nested(key, OFF[key]))


def test_a_second_run_has_nothing_to_do(finished: Run) -> None:
    started = time.monotonic()
    assert "Nothing to be done" in finished.snakemake()
    assert time.monotonic() - started < 15


def test_a_copied_run_has_nothing_to_do(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.path, tmp_path / finished.path.name, symlinks=True)
    assert finished.planned(run={"results": str(tmp_path)}) == {}
    (shard,) = (tmp_path / finished.path.name / "iter-2/candidates").glob("000.parquet")
    shard.unlink()
    assert set(finished.planned(run={"results": str(tmp_path)})) >= {"candidates", "judge"}


def test_a_deleted_shard_reruns_itself_and_what_depends_on_it(finished: Run) -> None:
    shard = finished.path / "iter-2/candidates/001.parquet"
    aside = shard.with_suffix(".aside")
    shard.rename(aside)
    try:
        planned = finished.planned()
    finally:
        aside.rename(shard)
    assert planned["candidates"] == 1
    assert planned["judge"] == 1
    assert {"score", "pairs", "reference_logprobs", "train"} <= planned.keys()
    assert not {"ingest", "select", "meta_judge", "rate"} & planned.keys()


def test_length_control_reruns_from_pairs_on(finished: Run) -> None:
    """D19: nothing was kept, so that another rho meant to generate everything again."""
    planned = finished.planned(pairs={"length_control": [0.0, 0.3]})
    assert planned.keys() == {"pairs", "reference_logprobs", "train", "evaluate", "report"}
    assert planned["pairs"] == planned["train"] == 1


def test_aggregation_reruns_from_score_on(finished: Run) -> None:
    planned = finished.planned(score={"aggregate": "median"})
    assert planned["score"] == 2
    assert {"pairs", "train"} <= planned.keys()
    assert not {"eft_score", "eft", "sft"} & planned.keys()
    # Iteration 2 starts from the retrained model.
    assert planned.get("judge", 0) == planned.get("candidates", 0) == 2


def test_the_score_pattern_reruns_whatever_parses_and_no_judgement_of_ranked_answers(finished: Run) -> None:
    planned = finished.planned(score={"pattern": "Score: {{ score }}"})
    assert planned["eft_score"] == planned["sft"] == 1
    assert planned["score"] == 2
    assert "eft_judge" not in planned
