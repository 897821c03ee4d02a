"""The typed configuration's sections. `config/README.md` and the JSON schema are generated from here."""

from stages.config.base import Gate, Schedule, Section, Share, Speed, at, decides, is_schedule, resolve, resolved
from stages.config.chat import AS_IT_IS, ChatSection, TemplateSettings, TurnSettings
from stages.config.data import CreateSettings, IngestSection, RunSection, SelectSection
from stages.config.eft import AgreementSettings, EftSection, RankedSettings
from stages.config.environments import EnvironmentSettings, EnvironmentsSection
from stages.config.evaluation import EvaluateSection, EvaluateSettings
from stages.config.generation import (
    CandidatesSection,
    EngineSettings,
    Sampling,
    ServerSettings,
    TrtllmSettings,
)
from stages.config.roles import (
    POLICY,
    REFERENCES,
    CreateSection,
    HeadToHeadSection,
    HeadToHeadSettings,
    JudgeSection,
    JudgeSettings,
    MetaJudgeSection,
    MetaJudgeSettings,
    Role,
)
from stages.config.scoring import PairsSection, RateSection, ScoreSection, VerifySection
from stages.config.training import (
    MegatronSettings,
    OptimizerSettings,
    ReferenceSection,
    TrainSection,
    ValidationSettings,
)

__all__ = [
    "AS_IT_IS",
    "POLICY",
    "REFERENCES",
    "AgreementSettings",
    "CandidatesSection",
    "ChatSection",
    "CreateSection",
    "CreateSettings",
    "EftSection",
    "EngineSettings",
    "EnvironmentSettings",
    "EnvironmentsSection",
    "EvaluateSection",
    "EvaluateSettings",
    "Gate",
    "HeadToHeadSection",
    "HeadToHeadSettings",
    "IngestSection",
    "JudgeSection",
    "JudgeSettings",
    "MegatronSettings",
    "MetaJudgeSection",
    "MetaJudgeSettings",
    "OptimizerSettings",
    "PairsSection",
    "RankedSettings",
    "RateSection",
    "ReferenceSection",
    "Role",
    "RunSection",
    "Sampling",
    "Schedule",
    "ScoreSection",
    "Section",
    "SelectSection",
    "ServerSettings",
    "Share",
    "Speed",
    "TemplateSettings",
    "TrainSection",
    "TrtllmSettings",
    "TurnSettings",
    "ValidationSettings",
    "VerifySection",
    "at",
    "decides",
    "is_schedule",
    "resolve",
    "resolved",
]
