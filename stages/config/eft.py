"""Settings of evaluation fine-tuning (EFT) and of the ranked answers that it learns from."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from stages.config.base import Section, Share
from stages.config.data import RowSettings
from stages.config.training import OptimizerSettings, ValidationSettings


class RankedSettings(RowSettings):
    """Ranked answers, and what they are used for."""

    sources: list[Path] = Field(
        [], description="Ranked or preferred answers (docs/data.md), or OpenAssistant `ready` trees."
    )
    language: str = Field("en", description="Language of the OpenAssistant trees that are used.")
    max_characters: int | None = Field(
        None, ge=1, description="Longer answers, and answers to longer prompts, are dropped (`overlong`)."
    )
    test_fraction: Share = Field(0.25, description="Share of the ranked prompts kept to test the judge, by hash.")
    ift_fraction: Share = Field(0.0, description="Share whose best answer becomes instruction data (IFT), by hash.")


class AgreementSettings(Section):
    """Which judgements of ranked answers to learn from."""

    agreement: Literal["order", "pairs"] = Field(
        "order",
        description="Which judgements to learn from: `order`: those of a vote whose scores order all answers of the "
        "prompt as people did; `pairs`: each that orders its answer rightly against every other answer's mean score.",
    )
    tie_tolerance: float = Field(0.0, ge=0, description="Scores that differ by no more than this count as equal.")
    allow_ties: bool = Field(False, description="Whether equal scores for unequally ranked answers still agree.")
    max_class_share: Share = Field(0.3, gt=0, description="Largest share of one whole score among the judgements kept.")
    max_judgements: int | None = Field(None, ge=1, description="Judgements to train on; unset takes all.")


class EftSection(RankedSettings, AgreementSettings):
    """Evaluation fine-tuning: the judge learns from its own judgements that rank answers as people did.

    Model 0 is then the base model fine-tuned on them (and on IFT data, where there is any).
    """

    enabled: bool = Field(False, description="Whether the loop starts with EFT; otherwise model 0 is `run.model`.")
    votes: int = Field(3, ge=1, description="Judgements of each ranked answer.")
    epochs: int = Field(1, ge=1, description="Passes over the supervised examples.")
    batch_size: int = Field(32, ge=1, description="Examples per optimizer step.")
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="Optimizer and schedule.")
    overlong: Literal["drop", "refuse"] = Field(
        "drop", description="Examples above `megatron.max_sequence_length`: left out and listed, or an error."
    )
    validation: ValidationSettings = Field(ValidationSettings(), description="Held-out data.")

    @model_validator(mode="after")
    def _sources(self) -> "EftSection":
        if self.enabled and not self.sources:
            raise ValueError("eft.sources must name ranked answers when eft.enabled is true")
        if isinstance(self.optimizer.learning_rate, list):
            raise ValueError("eft.optimizer.learning_rate takes one value: EFT comes before the iterations")
        self.optimizer.check_schedule("eft", self.epochs)
        if self.test_fraction + self.ift_fraction >= 1:
            raise ValueError("test_fraction and ift_fraction leave no ranked prompts to learn judging from")
        return self
