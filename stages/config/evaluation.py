"""Settings of evaluation: each model by itself, and two models head to head."""

from pathlib import Path

from pydantic import Field

from stages.config.base import Section
from stages.config.generation import Sampling
from stages.config.roles import HeadToHeadSection


class EvaluateSettings(Section):
    """How each model is measured on held-out prompts."""

    prompts: Path | None = Field(None, description="Held-out prompts (JSONL or Parquet); unset: the validation split.")
    max_prompts: int | None = Field(None, ge=1, description="Evaluate on at most this many prompts.")
    samples: int = Field(
        1, ge=1, description="Sampled answers per prompt, beside the greedy one; more narrow the interval."
    )
    sampling: Sampling = Field(Sampling(max_tokens=1024), description="Sampling of the measured responses.")
    judge_tests: Path | None = Field(
        None,
        description="Ranked responses (Parquet) to test the judge; unset: the test set of EFT, where there is one.",
    )
    judge_votes: int = Field(3, ge=1, description="Votes per test response.")
    meta_comparisons: int = Field(
        0, ge=0, description="Pairs of test judgements that the meta-judge compares, in both orders; 0 tests it not."
    )
    oracle: Path | None = Field(
        None,
        description="Python file with `quality(messages, response) -> float` and, where quality has bounds, "
        "`SCALE = (lowest, highest)`.",
    )


class EvaluateSection(EvaluateSettings):
    """How each model is measured on held-out prompts, and against others."""

    head_to_head: HeadToHeadSection = Field(HeadToHeadSection(), description="Two models' answers compared.")
