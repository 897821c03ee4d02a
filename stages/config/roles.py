"""Who judges, compares and writes prompts: the model and the engine of each role, and its settings.

The actor is the policy on `engine`, and so is every other role, unless it has a `model` or an `engine` of its own;
who compares models is model 0.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, field_validator, model_validator

from stages.config.base import Schedule, Section
from stages.config.chat import check_template_arguments
from stages.config.data import CreateSettings
from stages.config.generation import EngineSettings, Sampling

POLICY = "policy"
"""Name of the judge that is the policy itself."""


@dataclass(frozen=True)
class Role:
    """A model behind an engine."""

    model: Path | None
    """None: the iteration's own."""
    engine: EngineSettings
    key: str
    """Where the configuration has the engine's settings."""
    template_arguments: dict[str, JsonValue] = field(default_factory=dict)
    """Of the other model's chat template."""


class RoleSection(Section):
    """Which model has a role, behind which engine."""

    model: Path | None = Field(
        None,
        description="Hugging Face directory of another model that has this role; unset: the policy. For a server its "
        "tokenizer and `config.json` suffice.",
    )
    engine: EngineSettings | None = Field(
        None,
        description="Engine of this role; unset: `engine`. Keys are those of `engine`, whose values hold where one is "
        "left out; `trtllm` and `server` are taken as a whole.",
    )

    template_arguments: dict[str, JsonValue] = Field(
        {}, description="As `chat.template_arguments`, which are the policy's, for the chat template of `model`."
    )

    @field_validator("template_arguments")
    @classmethod
    def _names_are_free(cls, arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
        return check_template_arguments(arguments)

    @model_validator(mode="after")
    def _arguments_are_of_the_model(self) -> "RoleSection":
        if self.template_arguments and self.model is None:
            raise ValueError("template_arguments of a role are those of its `model`; the policy's are in section chat")
        return self

    def role(self, key: str, usual: EngineSettings) -> Role:
        """What has the role, where `usual` is the engine of all others; `key` is the section's own."""
        engine, place = (usual, "engine") if self.engine is None else (self.engine, f"{key}.engine")
        return Role(self.model, engine.used, place, self.template_arguments)


class JudgeSettings(Section):
    """How a model judges."""

    votes: int = Field(11, ge=1, description="N: judgements per candidate.")
    template: Path = Field(
        Path("prompts/judge.jinja"),
        description="Jinja2 template; may use `conversation`, `response` and `reference` (the data set's answer).",
    )
    sampling: Sampling = Field(Sampling(temperature=0.8, top_p=0.95, max_tokens=512), description="Sampling.")


class JudgeSection(RoleSection, JudgeSettings):
    """The model as judge of its own responses, or others in its place."""

    panel: dict[str, RoleSection] = Field(
        {},
        description="Several judges by name, each with a `model` and an `engine` like those above (`{}`: the policy). "
        "They vote in turn, equally often on each candidate; tables name the judge of each vote.",
    )

    @field_validator("panel")
    @classmethod
    def _names_can_be_those_of_files(cls, panel: dict[str, RoleSection]) -> dict[str, RoleSection]:
        for name in panel:
            if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
                raise ValueError(f"judge.panel: the name {name!r} may have letters, digits, `-` and `_` alone")
        return panel

    @model_validator(mode="after")
    def _votes_are_shared(self) -> "JudgeSection":
        if self.panel and (self.model or self.engine):
            raise ValueError("judge.panel names models and engines: leave judge.model and judge.engine out")
        if self.panel and self.votes % len(self.panel):
            raise ValueError(
                f"judge.votes ({self.votes}) must be a multiple of the {len(self.panel)} judges of judge.panel: else a "
                "candidate's score would depend on who voted more often"
            )
        return self

    def judges(self, usual: EngineSettings) -> dict[str, Role]:
        """All judges by name, in the order in which they vote."""
        if self.panel:
            return {name: section.role(f"judge.panel.{name}", usual) for name, section in self.panel.items()}
        name = POLICY if self.model is None else self.model.resolve().name
        return {name: self.role("judge", usual)}


class MetaJudgeSettings(Section):
    """How a model compares judgements."""

    enabled: Schedule[bool] = Field(True, description="Whether the iteration compares judgements (schedule).")
    template: Path = Field(
        Path("prompts/meta_judge.jinja"),
        description="Jinja2 template; sees `conversation`, `response`, `judgement_a`, `judgement_b`.",
    )
    hide_scores: bool = Field(
        True,
        description="Show judgements without the scores that they give: their reasoning is compared, and no meta-judge "
        "can follow the higher score. Our choice; the paper shows them.",
    )
    max_comparisons: int | None = Field(None, ge=1, description="Judgement pairs per candidate; unset compares all.")
    sampling: Sampling = Field(Sampling(temperature=0.8, top_p=0.95, max_tokens=512), description="Sampling.")


class MetaJudgeSection(RoleSection, MetaJudgeSettings):
    """The model as judge of its own judgements, or another in its place."""


REFERENCES = "references"
"""How the data's own answers are called among those that a model is compared with."""


class HeadToHeadSettings(Section):
    """How the answers of two models are compared."""

    template: Path = Field(
        Path("prompts/compare.jinja"),
        description="Jinja2 template; sees `conversation`, `response_a`, `response_b`.",
    )
    sampling: Sampling = Field(Sampling(temperature=0.0, max_tokens=512), description="Sampling of the verdicts.")


class HeadToHeadSection(RoleSection, HeadToHeadSettings):
    """Each model's answers against those of others, by one judge of them all."""

    enabled: bool = Field(False, description="Whether models are compared: with the one before and with model 0.")
    references: bool = Field(
        False, description="Compare models also with the data's own answers to the held-out prompts that have one."
    )
    model: Path | None = Field(
        None,
        description="Hugging Face directory of the judge; unset: model 0, for all comparisons of the run, so that a "
        "win rate does not change with its judge. For a server its tokenizer and `config.json` suffice.",
    )


class CreateSection(RoleSection, CreateSettings):
    """New prompts, written by a model after examples (Self-Instruct), for some iterations."""


def engines_inherit(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration's values, as they were given, with each role's engine completed by the values of `engine`."""
    usual = values.get("engine") or {}

    def completed(section: Any) -> Any:
        if not isinstance(section, dict):
            return section
        section = dict(section)
        if isinstance(section.get("engine"), dict) and isinstance(usual, dict):
            section["engine"] = usual | section["engine"]
        if isinstance(section.get("panel"), dict):
            section["panel"] = {name: completed(member) for name, member in section["panel"].items()}
        return section

    roles = [name for name in ("judge", "meta_judge", "create") if name in values]
    found = values | {name: completed(values[name]) for name in roles}
    evaluate = values.get("evaluate")
    if isinstance(evaluate, dict) and "head_to_head" in evaluate:
        found["evaluate"] = evaluate | {"head_to_head": completed(evaluate["head_to_head"])}
    return found
