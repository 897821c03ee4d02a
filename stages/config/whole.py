"""The whole configuration: all sections together, contradictions between them refused, loading with clear errors."""

import difflib
from collections.abc import Iterator
from operator import attrgetter
from typing import Any, TypeVar, get_args, get_origin

from pydantic import Field, ValidationError, model_validator

from stages.config import (
    CandidatesSection,
    ChatSection,
    CreateSection,
    EftSection,
    EngineSettings,
    EnvironmentsSection,
    EvaluateSection,
    IngestSection,
    JudgeSection,
    MegatronSettings,
    MetaJudgeSection,
    PairsSection,
    RateSection,
    ReferenceSection,
    Role,
    RunSection,
    Sampling,
    ScoreSection,
    Section,
    SelectSection,
    TrainSection,
    VerifySection,
    at,
)
from stages.config.base import schedules
from stages.config.roles import engines_inherit
from stages.config.training import MARGIN_LOSSES
from stages.contracts.errors import StageError

T = TypeVar("T")


class Config(Section):
    """The whole configuration."""

    run: RunSection = Field(description="The run as a whole.")
    chat: ChatSection = Field(ChatSection(), description="Conversations as the model sees them.")
    engine: EngineSettings = Field(EngineSettings(), description="Generation engine.")
    environments: EnvironmentsSection = Field(EnvironmentsSection(), description="Where rules run.")
    ingest: IngestSection = Field(description="Prompts.")
    eft: EftSection = Field(EftSection(), description="Evaluation fine-tuning before the loop.")
    create: CreateSection = Field(CreateSection(), description="Prompts created by a model.")
    select: SelectSection = Field(SelectSection(), description="Prompts of an iteration.")
    candidates: CandidatesSection = Field(CandidatesSection(), description="Candidate generation.")
    judge: JudgeSection = Field(JudgeSection(), description="Judging.")
    verify: VerifySection = Field(VerifySection(), description="Checkable instructions.")
    score: ScoreSection = Field(ScoreSection(), description="Parsing and aggregation.")
    meta_judge: MetaJudgeSection = Field(MetaJudgeSection(), description="Meta-judging.")
    rate: RateSection = Field(RateSection(), description="Rating judgements.")
    pairs: PairsSection = Field(PairsSection(), description="Preference pairs.")
    reference: ReferenceSection = Field(ReferenceSection(), description="Reference policy.")
    megatron: MegatronSettings = Field(MegatronSettings(), description="Training's ranks, layout and precision.")
    train: TrainSection = Field(TrainSection(), description="Training.")
    evaluate: EvaluateSection = Field(EvaluateSection(), description="Evaluation.")

    @model_validator(mode="before")
    @classmethod
    def _engines_of_roles_are_variants(cls, values: Any) -> Any:
        return engines_inherit(values) if isinstance(values, dict) else values

    @model_validator(mode="after")
    def _schedules_cover_all_iterations(self) -> "Config":
        for key, value in schedules(self):
            if len(value) < self.run.iterations:
                raise ValueError(
                    f"{key} has {len(value)} values for run.iterations = {self.run.iterations}; give one per iteration"
                )
        return self

    @model_validator(mode="after")
    def _votes_suffice_for_a_score(self) -> "Config":
        votes = min([self.judge.votes, *([self.evaluate.judge_votes] if self.tests_the_judge else [])])
        if self.score.min_votes > votes:
            raise ValueError(
                f"score.min_votes ({self.score.min_votes}) exceeds judge.votes ({self.judge.votes}) or "
                f"evaluate.judge_votes ({self.evaluate.judge_votes}): nothing would ever have a score"
            )
        return self

    @model_validator(mode="after")
    def _likelihoods_are_known(self) -> "Config":
        if self.score.aggregate == "expected" and self.judge.panel:
            raise ValueError(
                "score.aggregate `expected` weighs the votes of one model by its likelihoods: not a panel's"
            )
        whole = Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=self.judge.sampling.max_tokens)
        for judge in self.judges.values() if self.score.aggregate == "expected" else ():
            engine, key = judge.engine, judge.key
            told = self.judge.sampling == whole and engine.trtllm.sampler != "TRTLLMSampler"
            if engine.backend == "openai" and engine.server.kind == "openai":
                raise ValueError(
                    f"score.aggregate `expected` needs the likelihood of what the judge says, which {key}.server.kind "
                    "`openai` does not tell"
                )
            if engine.backend == "trtllm" and not told:
                raise ValueError(
                    f"score.aggregate `expected` needs the likelihood of what the judge says, which {key}.backend "
                    "`trtllm` tells only of samples from the whole model, and TRTLLMSampler not of the token that ends "
                    f"them: set judge.sampling.temperature and top_p to 1, top_k to 0, and {key}.trtllm.sampler to auto"
                )
        return self

    @model_validator(mode="after")
    def _combined_is_what_there_is(self) -> "Config":
        if self.score.combine != "checks" and not self.verify.judge:
            raise ValueError(
                f"score.combine `{self.score.combine}` needs votes on responses that are checked: set verify.judge"
            )
        return self

    @model_validator(mode="after")
    def _judgements_compared_are_the_policys(self) -> "Config":
        if any(self.by_iteration(self.meta_judge.enabled)) and (self.judge.panel or self.judge.model):
            raise ValueError(
                "meta_judge.enabled compares the policy's own judgements, to train it on the better ones; with "
                "judge.panel or judge.model others judge: set meta_judge.enabled to false"
            )
        return self

    @model_validator(mode="after")
    def _votes_suffice_for_comparisons(self) -> "Config":
        if any(self.by_iteration(self.meta_judge.enabled)) and self.judge.votes < 2:
            raise ValueError("meta_judge.enabled needs judge.votes of 2 or more: one vote has nothing to compare to")
        return self

    @model_validator(mode="after")
    def _meta_judge_has_a_test_set(self) -> "Config":
        if self.evaluate.meta_comparisons and not self.tests_the_judge:
            raise ValueError("evaluate.meta_comparisons needs a test set: set evaluate.judge_tests or enable eft")
        return self

    @model_validator(mode="after")
    def _generated_text_can_be_trained_on(self) -> "Config":
        for role in (self.actor, *self.judges.values()):
            if role.model is None and self.megatron.max_sequence_length < role.engine.max_sequence_length:
                raise ValueError(
                    f"megatron.max_sequence_length ({self.megatron.max_sequence_length}) is below "
                    f"{role.key}.max_sequence_length ({role.engine.max_sequence_length}): the text could not be "
                    "trained on"
                )
        return self

    @model_validator(mode="after")
    def _nodes_are_reached(self) -> "Config":
        where = self.environments
        if self.megatron.nodes > 1 and where.train.container and where.runtime == "apptainer":
            raise ValueError(
                "megatron.nodes above 1 needs `srun`, which a container of Apptainer's has not: set "
                "environments.runtime to `pyxis`, or environments.train.python"
            )
        return self

    @model_validator(mode="after")
    def _prompts_have_room(self) -> "Config":
        for section, role in self.generating():
            tokens, longest = attrgetter(section)(self).sampling.max_tokens, role.engine.max_sequence_length
            if tokens >= longest:
                raise ValueError(
                    f"{section}.sampling.max_tokens ({tokens}) leaves no room for a prompt within "
                    f"{role.key}.max_sequence_length ({longest})"
                )
        return self

    @model_validator(mode="after")
    def _something_is_held_out(self) -> "Config":
        if self.evaluate.prompts is None and not self.ingest.validation_fraction:
            raise ValueError("nothing to evaluate on: set evaluate.prompts or ingest.validation_fraction")
        return self

    @model_validator(mode="after")
    def _judge_pairs_come_of_comparisons(self) -> "Config":
        compared = self.by_iteration(self.meta_judge.enabled)
        for iteration, share in enumerate(self.by_iteration(self.pairs.judge_share), start=1):
            if share > 0 and not compared[iteration - 1]:
                raise ValueError(
                    f"pairs.judge_share is {share} in iteration {iteration}, "
                    "where meta_judge.enabled is false: no judge pairs would exist"
                )
        return self

    @model_validator(mode="after")
    def _judge_pairs_have_margins(self) -> "Config":
        for iteration, share in enumerate(self.by_iteration(self.pairs.judge_share), start=1):
            if share > 0 and self.train.loss in MARGIN_LOSSES and self.train.judge_pair_margin is None:
                raise ValueError(
                    f"pairs.judge_share is {share} in iteration {iteration}: judge pairs have no score margin, which "
                    f"train.loss `{self.train.loss}` needs; set train.judge_pair_margin"
                )
        return self

    @property
    def actor(self) -> Role:
        """The policy, on the engine of all that has none of its own."""
        return Role(None, self.engine.used, "engine")

    @property
    def judges(self) -> dict[str, Role]:
        """Who judges candidates, by name, in the order in which they vote."""
        return self.judge.judges(self.engine)

    @property
    def meta_judges(self) -> Role:
        """Who compares judgements."""
        return self.meta_judge.role("meta_judge", self.engine)

    @property
    def comparer(self) -> Role:
        """Who compares the answers of models; without a model of its own it is model 0."""
        return self.evaluate.head_to_head.role("evaluate.head_to_head", self.engine)

    @property
    def writer(self) -> Role:
        """Who writes prompts."""
        return self.create.role("create", self.engine)

    def generating(self) -> Iterator[tuple[str, Role]]:
        """All that generates in this run: the section with its sampling, and who does it."""
        yield "candidates", self.actor
        yield "evaluate", self.actor
        yield from (("judge", judge) for judge in self.judges.values())
        if self.tests_the_judge:
            yield "judge", self.actor
        if any(self.by_iteration(self.meta_judge.enabled)):
            yield "meta_judge", self.meta_judges
        if self.evaluate.meta_comparisons:
            yield "meta_judge", self.actor
        if self.evaluate.head_to_head.enabled:
            yield "evaluate.head_to_head", self.comparer
        if any(self.by_iteration(self.create.enabled)):
            yield "create", self.writer

    @property
    def tests_the_judge(self) -> bool:
        """Whether models are measured as judges."""
        return self.eft.enabled or self.evaluate.judge_tests is not None

    def by_iteration(self, value: T | list[T]) -> list[T]:
        """A schedule's value in each iteration of the run."""
        return [at(value, iteration) for iteration in range(1, self.run.iterations + 1)]


def load(values: dict[str, Any]) -> Config:
    """The configuration from Snakemake's dictionary; StageError names a wrong key and the nearest valid one."""
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        items = [item for item in error.errors() if not _is_of_the_other_form(item)]
        raise StageError("configuration: " + "; ".join(map(_explain, items))) from None


def _is_form(part: Any) -> bool:
    """Whether a part of an error's place is no key, but one of a schedule's two forms."""
    return str(part).startswith(("list[", "constrained-")) or part in ("int", "float", "bool", "str")


def _is_of_the_other_form(item: Any) -> bool:
    """Whether an error is that one value is no list, or a list no single value: a schedule may be either."""
    form = next((str(part) for part in item["loc"] if _is_form(part)), "")
    if form.startswith("list["):
        return bool(item["type"] == "list_type")
    return bool(form) and isinstance(item["input"], list)


def _explain(item: Any) -> str:
    key = ".".join(str(part) for part in item["loc"] if not _is_form(part))
    if item["type"] == "extra_forbidden":
        valid = _fields_at(item["loc"][:-1])
        near = difflib.get_close_matches(str(item["loc"][-1]), valid, n=1, cutoff=0.5)
        return f"unknown key {key!r}; " + (f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(valid)}")
    if item["type"] == "missing":
        return f"key {key!r} is required"
    if item["input"] is None and item["type"].startswith("model"):
        return f"{key}: the section is empty: give it a key, or remove the line `{key.rpartition('.')[2]}:`"
    message = item["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (given: {item['input']!r})" if key and item["type"] != "value_error" else message


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    kind: Any = Config
    for part in location:
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            kind = kind.model_fields[part].annotation
            kind = next(iter(get_args(kind)), kind) if get_origin(kind) is not dict else kind
    return list(kind.model_fields)
