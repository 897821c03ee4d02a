"""What each version of `tensorrt_llm` accepts: arguments of LLM, sampling parameters, settings of the cache."""

import dataclasses
from dataclasses import field
from typing import Any

import pydantic

from tests.support.trtllm_world import release

LLM_ARGUMENTS = """
    model tokenizer tokenizer_mode skip_tokenizer_init trust_remote_code tensor_parallel_size dtype revision
    tokenizer_revision pipeline_parallel_size context_parallel_size gpus_per_node moe_cluster_parallel_size
    moe_tensor_parallel_size moe_expert_parallel_size enable_attention_dp enable_lm_head_tp_in_adp cp_config
    load_format enable_lora lora_config kv_cache_config enable_chunked_prefill guided_decoding_backend
    batched_logits_processor iter_stats_max_iterations request_stats_max_iterations peft_cache_config scheduler_config
    cache_transceiver_config speculative_config max_batch_size max_input_len max_seq_len max_beam_width max_num_tokens
    gather_generation_logits num_postprocess_workers postprocess_tokenizer_dir reasoning_parser decoding_config backend
    return_perf_metrics build_config garbage_collection_gen0_threshold cuda_graph_config attention_dp_config
    disable_overlap_scheduler moe_config attn_backend enable_iter_perf_stats enable_iter_req_stats print_iter_log
    torch_compile_config enable_autotuner
    """
SINCE = {
    "1.1.0": """
    perf_metrics_max_requests batch_wait_timeout_ms batch_wait_timeout_iters batch_wait_max_tokens_ratio
    """,
    "1.2.0": "sparse_attention_config ray_worker_extension_cls",
    "1.2.1": "orchestrator_type otlp_traces_endpoint env_overrides",
}
"""Arguments of LLM by the first version that is known to have them."""
ONLY_100 = "enable_mixed_sampler enable_trtllm_sampler"

UNSET = """
    end_id pad_id bad bad_token_ids stop stop_token_ids embedding_bias logits_processor best_of top_k top_p top_p_min
    top_p_reset_ids top_p_decay seed temperature min_tokens beam_search_diversity_rate repetition_penalty
    presence_penalty frequency_penalty length_penalty early_stopping no_repeat_ngram_size min_p beam_width_array
    logprobs prompt_logprobs additional_model_outputs lookahead_config guided_decoding truncate_prompt_tokens
    """
OFF = """
    include_stop_str_in_output apply_batched_logits_processor use_beam_search return_context_logits
    return_generation_logits return_encoder_output return_perf_metrics ignore_eos
    """
ON = "exclude_input_from_output detokenize add_special_tokens skip_special_tokens spaces_between_special_tokens"
SAMPLING_DEFAULTS: dict[str, Any] = {
    **dict.fromkeys(UNSET.split()),
    **dict.fromkeys(OFF.split(), False),
    **dict.fromkeys(ON.split(), True),
    "max_tokens": 32,
    "n": 1,
}


def llm_arguments(version: str) -> set[str]:
    """The keyword arguments that LLM accepts in a version."""
    number = release(version)
    added = [names for since, names in SINCE.items() if number >= release(since)]
    if release("1.1.0") <= number < release("1.3.0rc26"):
        added.append("sampler_type")
    return set(" ".join([LLM_ARGUMENTS, *added, ONLY_100 if version == "1.0.0" else ""]).split())


class SamplingRules:
    """Validation and set-up that every version's SamplingParams shares."""

    __slots__ = ()

    def __post_init__(self: Any) -> None:
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise ValueError(f"require 0 <= top_p <= 1, got top_p={self.top_p}")
        if self.top_k is not None and self.top_k < 0:
            raise ValueError(f"require top_k >= 0, got top_k={self.top_k}")
        if self.temperature is not None and self.temperature < 0:
            raise ValueError(f"require temperature >= 0, got temperature={self.temperature}")
        self.best_of = self.best_of or self.n
        if self.best_of < self.n:
            raise ValueError(f"best_of ({self.best_of}) cannot be less than n ({self.n})")
        if self.best_of > 1 and self.greedy:
            raise ValueError("greedy decoding with best_of > 1 is not allowed")

    @property
    def greedy(self: Any) -> bool:
        unset = self.temperature is None and self.top_p is None and self.top_k is None
        return not self.use_beam_search and (unset or self.top_k == 1 or self.top_p == 0 or self.temperature == 0)


def sampling_params(version: str) -> type[Any]:
    """The version's SamplingParams: unknown keywords are TypeErrors, unknown attributes AttributeErrors."""
    defaults = SAMPLING_DEFAULTS | ({"prompt_ignore_length": None} if release(version) >= release("1.2.0") else {})
    fields = [(name, Any, field(default=value)) for name, value in defaults.items()]
    return dataclasses.make_dataclass("SamplingParams", fields, bases=(SamplingRules,), slots=True, kw_only=True)


class KvCacheConfig(pydantic.BaseModel):
    """The fields that this project may set, and some more; any other is a ValidationError."""

    model_config = pydantic.ConfigDict(extra="forbid")
    enable_block_reuse: bool = True
    enable_partial_reuse: bool = True
    max_tokens: int | None = None
    free_gpu_memory_fraction: float | None = pydantic.Field(0.9, ge=0, le=1)
    host_cache_size: int | None = None
    tokens_per_block: int = 32
    dtype: str = "auto"


class CudaGraphConfig(pydantic.BaseModel):
    """Which batches are captured: by default, exact sizes up to 128."""

    model_config = pydantic.ConfigDict(extra="forbid")
    batch_sizes: list[int] | None = None
    max_batch_size: int = pydantic.Field(0, ge=0)
    enable_padding: bool = False
