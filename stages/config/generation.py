"""Settings of everything that a model generates."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from stages.config.base import Gate, Schedule, Section, Share, Speed


class Sampling(Section):
    """How tokens are drawn."""

    temperature: float = Field(1.0, ge=0, description="0 is greedy decoding; 1 samples from the model itself.")
    top_p: float = Field(1.0, gt=0, le=1, description="Keep the smallest set of tokens with this much probability.")
    top_k: int = Field(0, ge=0, description="Keep only the k likeliest tokens; 0 keeps all.")
    min_p: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Drop tokens with less than this share of the likeliest one's probability; 0 keeps all.",
    )
    repetition_penalty: float = Field(
        1.0,
        gt=0,
        description="Divides the logits of tokens that prompt or answer contain (multiplies negative ones); 1 is off.",
    )
    max_tokens: int = Field(512, ge=1, description="Cut the text after this many tokens (finish reason `length`).")
    stop: list[Annotated[str, Field(min_length=1, pattern="^[^-]")]] = Field(
        [],
        description="Strings that end the text (finish reason `stop`), none beginning with `-`. The text is cut before "
        "the first one; the tokens stay as drawn.",
    )


class TrtllmSettings(Section):
    """What TensorRT-LLM alone needs to know."""

    tensor_parallel_size: Speed[int] = Field(1, ge=1, description="GPUs that share each layer.")
    pipeline_parallel_size: Speed[int] = Field(1, ge=1, description="Groups of GPUs that share the layers.")
    max_num_tokens: Speed[int] = Field(16384, ge=1, description="Tokens in one step over the whole batch.")
    max_batch_size: Speed[int] = Field(512, ge=1, description="Requests in flight.")
    kv_cache_fraction: Speed[float] = Field(
        0.9, gt=0, lt=1, description="Share of the free GPU memory for the KV cache."
    )
    block_reuse: Speed[bool] = Field(
        True, description="Votes on one prompt share its prefill; off for bit-equal reruns."
    )
    sampler: Literal["auto", "TorchSampler", "TRTLLMSampler"] = Field(
        "auto", description="`TRTLLMSampler` honours per-request seeds in 1.0 to 1.2; the default sampler does not."
    )


class EngineSettings(Section):
    """Which generation engine runs the model, and how."""

    backend: Literal["torch", "trtllm"] = Field("torch", description="`torch` (CPU or GPU) or `trtllm` (NVIDIA GPUs).")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Weights' type while generating; `auto`: as stored on GPU; on CPU bfloat16 where the processor "
        "computes in it, else float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device of the `torch` engine.")
    threads: Speed[int] = Field(1, ge=1, description="CPU threads of the `torch` engine; also the rule's `threads`.")
    batch_tokens: Speed[int] = Field(65536, ge=1, description="`torch` engine: KV-cache slots (tokens) in one batch.")
    max_sequence_length: int = Field(4096, ge=2, description="Longest prompt plus answer, in tokens.")
    trtllm: TrtllmSettings = Field(TrtllmSettings(), description="Settings of the `trtllm` engine.")


class CandidatesSection(Section):
    """Responses of the actor."""

    samples: int = Field(7, ge=2, description="K: candidates per prompt.")
    max_cut_share: Gate[Share] = Field(
        0.8, description="The stage fails when more responses of a shard than this are cut: no pair can come of them."
    )
    sampling: Sampling = Field(Sampling(temperature=0.8, top_p=0.95, max_tokens=1024), description="Sampling.")


class JudgeSection(Section):
    """The model as judge of its own responses."""

    votes: int = Field(11, ge=1, description="N: judgements per candidate.")
    template: Path = Field(
        Path("prompts/judge.jinja"),
        description="Jinja2 template; may use `conversation`, `response` and `reference` (the data set's answer).",
    )
    sampling: Sampling = Field(Sampling(temperature=0.8, top_p=0.95, max_tokens=512), description="Sampling.")


class MetaJudgeSection(Section):
    """The model as judge of its own judgements."""

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
