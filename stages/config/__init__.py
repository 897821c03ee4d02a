"""The typed configuration's sections. `config/README.md` and the JSON schema are generated from here."""

from stages.config.base import Gate, Schedule, Section, Share, Speed, at, decides, is_schedule, resolve, resolved
from stages.config.chat import AS_IT_IS, ChatSection, TemplateSettings, TurnSettings
from stages.config.data import CreateSection, IngestSection, RunSection, SelectSection
from stages.config.eft import AgreementSettings, EftSection, RankedSettings
from stages.config.environments import EnvironmentSettings, EnvironmentsSection
from stages.config.generation import (
    CandidatesSection,
    EngineSettings,
    JudgeSection,
    MetaJudgeSection,
    Sampling,
    ServerSettings,
    TrtllmSettings,
)
from stages.config.scoring import PairsSection, RateSection, ScoreSection, VerifySection
from stages.config.training import (
    EvaluateSection,
    MegatronSettings,
    OptimizerSettings,
    ReferenceSection,
    TrainSection,
    ValidationSettings,
)

__all__ = [
    "AS_IT_IS",
    "AgreementSettings",
    "CandidatesSection",
    "ChatSection",
    "CreateSection",
    "EftSection",
    "EngineSettings",
    "EnvironmentSettings",
    "EnvironmentsSection",
    "EvaluateSection",
    "Gate",
    "IngestSection",
    "JudgeSection",
    "MegatronSettings",
    "MetaJudgeSection",
    "OptimizerSettings",
    "PairsSection",
    "RankedSettings",
    "RateSection",
    "ReferenceSection",
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
