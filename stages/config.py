"""The typed configuration's sections, one per stage. `config/README.md` and the JSON schema are generated from here.

A value that may change over the iterations is a `Schedule`: a scalar, or a list with one value per iteration.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

T = TypeVar("T")
Schedule: TypeAlias = T | list[T]
Share = Annotated[float, Field(ge=0, le=1)]


def check_expression(pattern: str) -> None:
    """ValueError if a pattern, its `{{ name }}` slot aside, is not a regular expression."""
    try:
        re.compile(re.sub(r"{{ \w+ }}", "(x)", pattern))
    except re.error as error:
        raise ValueError(f"pattern is not a regular expression: {error}") from None


class Section(BaseModel):
    """A part of the configuration; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _complete_blocks(cls, values: Any) -> Any:
        """A block that is given in part keeps the rest of its default in this section, not of its type's."""
        if not isinstance(values, dict):
            return values
        defaults = {name: field.default for name, field in cls.model_fields.items()}
        return values | {
            name: default.model_dump() | values[name]
            for name, default in defaults.items()
            if isinstance(default, BaseModel) and isinstance(values.get(name), dict)
        }


class Sampling(Section):
    """How tokens are drawn."""

    temperature: float = Field(1.0, ge=0, description="0 is greedy decoding; 1 samples from the model itself.")
    top_p: float = Field(1.0, gt=0, le=1, description="Keep the smallest set of tokens with this much probability.")
    top_k: int = Field(0, ge=0, description="Keep only the k likeliest tokens; 0 keeps all.")
    max_tokens: int = Field(512, ge=1, description="Cut the text after this many tokens (finish reason `length`).")


class TrtllmSettings(Section):
    """What TensorRT-LLM alone needs to know."""

    tensor_parallel_size: int = Field(1, ge=1, description="GPUs that share each layer.")
    pipeline_parallel_size: int = Field(1, ge=1, description="Groups of GPUs that share the layers.")
    max_num_tokens: int = Field(16384, ge=1, description="Tokens in one step over the whole batch.")
    max_batch_size: int = Field(512, ge=1, description="Requests in flight.")
    kv_cache_fraction: float = Field(0.9, gt=0, lt=1, description="Share of the free GPU memory for the KV cache.")
    block_reuse: bool = Field(True, description="Votes on one prompt share its prefill; off for bit-equal reruns.")
    sampler: Literal["auto", "TorchSampler", "TRTLLMSampler"] = Field(
        "auto", description="`TRTLLMSampler` honours per-request seeds in 1.0 to 1.2; the default sampler does not."
    )


class EngineSettings(Section):
    """Which generation engine runs the model, and how."""

    backend: Literal["torch", "trtllm"] = Field("torch", description="`torch` (CPU or GPU) or `trtllm` (NVIDIA GPUs).")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Weights' type while generating; `auto`: float32 on CPU, as stored on GPU."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device of the `torch` engine.")
    threads: int = Field(1, ge=1, description="CPU threads of the `torch` engine; also the rule's `threads`.")
    batch_tokens: int = Field(65536, ge=1, description="`torch` engine: KV-cache slots (tokens) in one batch.")
    max_sequence_length: int = Field(4096, ge=2, description="Longest prompt plus answer, in tokens.")
    trtllm: TrtllmSettings = Field(TrtllmSettings(), description="Settings of the `trtllm` engine.")


class RunSection(Section):
    """The run as a whole."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Folder of this run in `results`.")
    results: Path = Field(Path("results"), description="Where runs are kept.")
    seed: int = Field(0, ge=0, description="Every seed of the run derives from this one.")
    iterations: int = Field(3, ge=1, description="Iterations T: model 1 to model T are trained.")
    shards: int = Field(2, ge=1, le=1000, description="Pieces of generation; change speed, never seeds.")
    model: Path = Field(description="Hugging Face directory of model 0.")


class IngestSection(Section):
    """Conversations in, prompts out."""

    sources: list[Path] = Field(min_length=1, description="Chat JSONL (NeMo or `messages` form) or Parquet files.")
    validation_fraction: float = Field(0.0, ge=0, lt=1, description="Share of prompts held out, by hash of the prompt.")
    max_prompt_characters: int | None = Field(None, ge=1, description="Longer conversations are dropped (`overlong`).")


class SelectSection(Section):
    """The iteration's prompts."""

    prompts: Schedule[PositiveInt] = Field(5000, description="Prompts per iteration (schedule).")
    reuse: bool = Field(False, description="Whether a prompt may serve in more than one iteration.")


class CandidatesSection(Section):
    """Responses of the actor."""

    samples: int = Field(7, ge=2, description="K: candidates per prompt.")
    sampling: Sampling = Field(Sampling(temperature=0.8, top_p=0.95, max_tokens=1024), description="Sampling.")


class JudgeSection(Section):
    """The model as judge of its own responses."""

    votes: int = Field(11, ge=1, description="N: judgements per candidate.")
    template: Path = Field(Path("prompts/judge.jinja"), description="Jinja2 template; sees `conversation`, `response`.")
    sampling: Sampling = Field(Sampling(temperature=0.8, top_p=0.95, max_tokens=512), description="Sampling.")


class ScoreSection(Section):
    """Judgements parsed and aggregated."""

    pattern: str = Field(
        r"(?i)\b(?:score|points)\b[^\w.;!?]{0,8}{{ score }}",
        description="Regular expression of a verdict; `{{ score }}` stands for the number. The last match counts.",
    )
    low: float = Field(0, description="Lowest score; anything below is `out_of_range`, never clamped.")
    high: float = Field(5, description="Highest score.")
    aggregate: Literal["mean", "median"] = Field("mean", description="Score of a candidate from its valid votes.")
    min_votes: int = Field(1, ge=1, description="Valid votes that a candidate needs to have a score.")
    min_parse_rate: float = Field(0.5, ge=0, le=1, description="The stage fails when fewer votes than this parse.")

    @model_validator(mode="after")
    def _range(self) -> "ScoreSection":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.pattern.count("{{ score }}") != 1:
            raise ValueError("pattern must contain {{ score }} exactly once")
        check_expression(self.pattern)
        return self


class MetaJudgeSection(Section):
    """The model as judge of its own judgements."""

    enabled: Schedule[bool] = Field(True, description="Whether the iteration compares judgements (schedule).")
    template: Path = Field(
        Path("prompts/meta_judge.jinja"),
        description="Jinja2 template; sees `conversation`, `response`, `judgement_a`, `judgement_b`.",
    )
    max_comparisons: int | None = Field(None, ge=1, description="Judgement pairs per candidate; unset compares all.")
    sampling: Sampling = Field(Sampling(temperature=0.8, top_p=0.95, max_tokens=512), description="Sampling.")


class RateSection(Section):
    """Verdicts parsed, battles weighted, judgements rated."""

    pattern: str = Field(
        r"(?i)\bwinner\b[^\w.;!?]{0,8}(?:judge?ment\W{0,4})?{{ winner }}",
        description="Regular expression of a verdict; `{{ winner }}` stands for A or B. The last match counts.",
    )
    position_weights: Literal["paper", "none", "agreement"] = Field(
        "paper",
        description="`paper`: weigh a win by the other slot's share of wins; `none`: weigh all alike; "
        "`agreement`: a win needs both orders, otherwise a tie.",
    )
    prior: float = Field(
        0.01, gt=0, description="Weight of a virtual tie between any two judgements: keeps Elo finite."
    )

    @model_validator(mode="after")
    def _pattern(self) -> "RateSection":
        if self.pattern.count("{{ winner }}") != 1:
            raise ValueError("pattern must contain {{ winner }} exactly once")
        check_expression(self.pattern)
        return self


class PairsSection(Section):
    """Which pairs are trained on."""

    length_control: Schedule[Share] = Field(
        0.0,
        description="rho in [0, 1]: width of the score windows from which the shortest chosen and the longest "
        "rejected response are taken (schedule).",
    )
    min_margin: float = Field(0.0, ge=0, description="Actor pairs need a larger score difference than this.")
    judge_share: Schedule[Share] = Field(0.0, description="Share of judge pairs among the training pairs (schedule).")
    max_pairs: int | None = Field(None, ge=1, description="Training pairs per iteration; unset takes all.")
    max_chosen_tokens: Schedule[PositiveInt] | None = Field(
        None, description="Longer chosen responses are dropped, with the reason `overlong` (schedule)."
    )
    max_chosen_judgement_tokens: Schedule[PositiveInt] | None = Field(
        None, description="The same for chosen judgements (schedule)."
    )
    same_score_judgements: bool = Field(
        True, description="Whether two judgements with the same score may form a judge pair."
    )


class ReferenceSection(Section):
    """The reference policy of DPO."""

    policy: Literal["previous", "initial"] = Field(
        "previous", description="`previous`: the model that the iteration starts from; `initial`: model 0."
    )


class OptimizerSettings(Section):
    """Megatron's optimizer and the learning-rate schedule."""

    learning_rate: Schedule[PositiveFloat] = Field(1e-6, description="Peak learning rate (schedule).")
    min_learning_rate_ratio: float = Field(0.1, ge=0, le=1, description="Floor, as a share of the peak.")
    warmup_steps: int = Field(10, ge=0, description="Linear warm-up.")
    constant_steps: int = Field(0, ge=0, description="Steps at the floor at the end, after the cosine.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Adam's first-moment decay.")
    beta2: float = Field(0.98, ge=0, lt=1, description="Adam's second-moment decay.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    clip_grad: float = Field(1.0, ge=0, description="Largest gradient norm; 0 does not clip.")


class MegatronSettings(Section):
    """How Megatron-core lays the model out over the ranks, in training and for the reference policy."""

    processes: int = Field(1, ge=1, description="Ranks on each node: one per GPU, or per CPU worker.")
    nodes: int = Field(1, ge=1, description="Machines; above 1 the ranks are launched with `srun`.")
    tensor_parallel: int = Field(1, ge=1, description="Ranks that share each layer.")
    pipeline_parallel: int = Field(1, ge=1, description="Groups of ranks that share the layers.")
    threads: int = Field(1, ge=1, description="CPU threads per rank.")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="Type of weights and activations.")
    micro_batch_tokens: int = Field(16384, ge=1, description="Padded tokens per forward pass and rank.")
    max_sequence_length: int = Field(4096, ge=2, description="Longest prompt plus answer; a longer pair is refused.")


class TrainSection(Section):
    """One round of training."""

    beta: Schedule[PositiveFloat] = Field(0.1, description="KL penalty of DPO (schedule).")
    sft_weight: float = Field(0.0, ge=0, description="Weight of an added negative log-likelihood of the chosen answer.")
    epochs: int = Field(1, ge=1, description="Passes over the pairs.")
    batch_size: int = Field(32, ge=1, description="Pairs (or examples) per optimizer step, over all ranks.")
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="Optimizer and schedule.")


class EvaluateSection(Section):
    """How each model is measured on held-out prompts."""

    prompts: Path | None = Field(None, description="Held-out prompts (JSONL or Parquet); unset: the validation split.")
    max_prompts: int | None = Field(None, ge=1, description="Evaluate on at most this many prompts.")
    sampling: Sampling = Field(Sampling(max_tokens=1024), description="Sampling of the measured responses.")
    judge_tests: Path | None = Field(None, description="Responses with reference scores (Parquet), to test the judge.")
    judge_votes: int = Field(3, ge=1, description="Votes per test response.")
    oracle: Path | None = Field(None, description="Python file with `quality(messages, response) -> float`.")


def at(value: "T | list[T]", iteration: int) -> T:
    """The value of a schedule in an iteration (counted from 1)."""
    return value[iteration - 1] if isinstance(value, list) else value


def resolve(section: Any, iteration: int) -> Any:
    """A section with each schedule replaced by its value in `iteration`."""
    values = {}
    for name, value in section:
        if isinstance(value, Section):
            values[name] = resolve(value, iteration)
        else:
            values[name] = at(value, iteration) if is_schedule(type(section), name) else value
    return section.model_copy(update=values)


def is_schedule(model: type[BaseModel], name: str) -> bool:
    """Whether a field takes one value per iteration."""
    kinds = [get_origin(kind) for kind in get_args(model.model_fields[name].annotation)]
    return list in kinds and len(kinds) > 1
