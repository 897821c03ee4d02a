"""Settings of everything that a model generates."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from stages.config.base import Gate, Section, Share, Speed


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
    stop: list[Annotated[str, Field(min_length=1)]] = Field(
        [],
        description="Strings that end the text (finish reason `stop`): it is cut before the first one; tokens stay as "
        "drawn.",
    )


TRTLLM_OWN = frozenset(
    {
        *("model", "tokenizer", "skip_tokenizer_init", "backend", "dtype", "kv_cache_config", "cuda_graph_config"),
        *("tensor_parallel_size", "pipeline_parallel_size", "max_seq_len", "max_num_tokens", "max_batch_size"),
        *("enable_chunked_prefill", "sampler_type", "enable_trtllm_sampler", "enable_mixed_sampler"),
    }
)
"""Arguments of `tensorrt_llm.LLM` that the engine sets itself, or relies on as they are."""


class TrtllmSettings(Section):
    """What TensorRT-LLM alone needs to know."""

    tensor_parallel_size: Speed[int] = Field(1, ge=1, description="GPUs that share each layer.")
    pipeline_parallel_size: Speed[int] = Field(1, ge=1, description="Groups of GPUs that share the layers.")
    max_num_tokens: Speed[int] = Field(16384, ge=1, description="Tokens in one step over the whole batch.")
    max_batch_size: Speed[int] = Field(512, ge=1, description="Requests in flight.")
    kv_cache_fraction: Speed[float] = Field(
        0.9, gt=0, lt=1, description="Share of the free GPU memory for the KV cache."
    )
    load_seconds: Speed[float] = Field(
        3600, gt=0, description="The stage ends with an error when the model is not ready after so long."
    )
    block_reuse: Speed[bool] = Field(
        True, description="Votes on one prompt share its prefill; off for bit-equal reruns."
    )
    kv_cache_dtype: Literal["auto", "fp8"] = Field(
        "auto", description="Type of the KV cache; `fp8` holds twice as many tokens, rounded."
    )
    sampler: Literal["auto", "TorchSampler", "TRTLLMSampler"] = Field(
        "auto",
        description="`TRTLLMSampler` honours per-request seeds; `TorchSampler`, which 1.2 and later choose, does not.",
    )
    extra: dict[str, JsonValue] = Field(
        {}, description="More arguments of `tensorrt_llm.LLM`, passed as they are; none that the keys above decide."
    )

    @field_validator("extra")
    @classmethod
    def _extra_leaves_ours_alone(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if taken := sorted(extra.keys() & TRTLLM_OWN):
            raise ValueError(f"{', '.join(taken)}: set by the engine itself; use the keys of engine and engine.trtllm")
        return extra


class ServerSettings(Section):
    """A server that speaks the OpenAI protocol, for `backend: openai`."""

    kind: Literal["vllm", "sglang", "trtllm", "llamacpp", "openai"] = Field(
        "openai",
        description="Whose server it is: it decides what is honoured, and how token ids come. `openai`: any other.",
    )
    url: Speed[str | None] = Field(None, description="Address of a running server: `http://localhost:8000`.")
    command: Speed[str | None] = Field(
        None,
        description="Or the command line of one that a job starts, with slots `{model}`, `{host}` and `{port}`. "
        "It ends with all its processes.",
    )
    model: str | None = Field(
        None,
        description="Name that the server has for the model. Unset: the one that it serves from the model's directory; "
        "served from elsewhere it is refused.",
    )
    key_variable: Speed[str] = Field(
        "OPENAI_API_KEY", description="Environment variable that holds the key. The key itself is written nowhere."
    )
    gpus: Speed[int] = Field(1, ge=0, description="GPUs of a machine that has some that `command` needs.")
    concurrency: Speed[int] = Field(64, ge=1, description="Requests in flight.")
    retries: Speed[int] = Field(
        6, ge=0, description="Further tries of a request after timeouts, resets, answers that break off, 429 and 5xx."
    )
    timeout_seconds: Speed[float] = Field(600, gt=0, description="Longest wait for the answer to one request.")
    start_seconds: Speed[float] = Field(1800, gt=0, description="Longest wait for a server to be ready.")
    linger_seconds: Speed[float] = Field(
        0,
        ge=0,
        description="A server that a job started is left to the next job that wants the same one, for so long; 0: it "
        "ends with its job.",
    )
    allow_retokenised: Gate[bool] = Field(
        False,
        description="Accept a server that gives text without token ids: the text is encoded anew, and training is then "
        "not on exactly what was sampled.",
    )


class EngineSettings(Section):
    """Which generation engine runs the model, and how."""

    backend: Literal["torch", "trtllm", "openai"] = Field(
        "torch", description="`torch` (CPU or GPU), `trtllm` (NVIDIA GPUs), or `openai` (any server of that protocol)."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Weights' type while generating; `auto`: as stored on GPU; on CPU bfloat16 where the processor "
        "has it, else float32. Only in float32 does a sample not depend on its batch, nor on the shards.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Device of the `torch` engine.")
    threads: Speed[int] = Field(1, ge=1, description="CPU threads of the `torch` engine; also the rule's `threads`.")
    batch_tokens: Speed[int] = Field(65536, ge=1, description="`torch` engine: KV-cache slots (tokens) in one batch.")
    max_sequence_length: int = Field(4096, ge=2, description="Longest prompt plus answer, in tokens.")
    stall_seconds: Speed[float] = Field(
        900,
        gt=0,
        description="`trtllm` engine: the stage ends with an error when no answer comes for so long; a rerun goes on.",
    )
    max_failed_share: Gate[Share] = Field(
        0.05,
        description="The stage fails when more requests of a shard than this fail, asked three times; one always may.",
    )
    trtllm: TrtllmSettings = Field(TrtllmSettings(), description="Settings of the `trtllm` engine.")
    server: ServerSettings = Field(ServerSettings(), description="The server of the `openai` engine.")

    @model_validator(mode="after")
    def _one_server(self) -> "EngineSettings":
        if self.backend == "openai" and (self.server.url is None) == (self.server.command is None):
            raise ValueError("engine.backend `openai` needs either engine.server.url or engine.server.command")
        return self

    @property
    def used(self) -> "EngineSettings":
        """These settings without what their back-end does not look at: that is no reason to run anything again."""
        others = {"trtllm": TrtllmSettings(), "openai": ServerSettings()}
        names = {"trtllm": "trtllm", "openai": "server"}
        unused = {names[backend]: default for backend, default in others.items() if backend != self.backend}
        return self.model_copy(update=unused)

    @property
    def gpus(self) -> int:
        """GPUs that a job needs on a machine that has some."""
        if self.backend == "trtllm":
            return self.trtllm.tensor_parallel_size * self.trtllm.pipeline_parallel_size
        if self.backend == "openai":
            return 0 if self.server.url else self.server.gpus
        return 0 if self.device == "cpu" else 1


class CandidatesSection(Section):
    """Responses of the actor."""

    samples: int = Field(7, ge=2, description="K: candidates per prompt.")
    hinted: int = Field(
        0,
        ge=0,
        description="So many of the samples, the first ones, see a prompt's `sampling_hint` (docs/data.md), where it "
        "has one; training never sees it.",
    )
    max_cut_share: Gate[Share] = Field(
        0.8, description="The stage fails when more responses of a shard than this are cut: no pair can come of them."
    )
    sampling: Sampling = Field(Sampling(temperature=0.8, top_p=0.95, max_tokens=1024), description="Sampling.")

    @model_validator(mode="after")
    def _hinted(self) -> "CandidatesSection":
        if self.hinted > self.samples:
            raise ValueError(f"candidates.hinted ({self.hinted}) is above candidates.samples ({self.samples})")
        return self
