"""Megatron's `GPTModel` from a Hugging Face configuration."""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from megatron.core import parallel_state
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_config import TransformerConfig

from stages.config import MegatronSettings
from stages.errors import StageError
from stages.megatron.attention import PackedAttention
from stages.megatron.cpu import cuda_or_cpu
from stages.megatron.policy import PolicyModel, Vocabulary
from stages.megatron.rotary import RotaryByPosition

_SPLIT_DIMENSION = {
    "word_embeddings": 0,
    "output_layer": 0,
    "linear_qkv": 0,
    "linear_fc1": 0,
    "linear_proj": 1,
    "linear_fc2": 1,
}


def transformer_config(hf: dict[str, Any], settings: MegatronSettings) -> TransformerConfig:
    """Megatron's configuration for a Hugging Face one; StageError for options that Megatron cannot follow."""
    if hf.get("hidden_act", "silu") != "silu":
        raise StageError(f"hidden_act {hf['hidden_act']!r} is not supported, only 'silu'")
    if hf.get("use_sliding_window") or (hf["architectures"][0].startswith("Mistral") and hf.get("sliding_window")):
        raise StageError("sliding-window attention is not supported; set `sliding_window` to null if it is never used")
    architecture = hf["architectures"][0]
    dtype = getattr(torch, settings.dtype)
    recompute = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    return TransformerConfig(
        num_layers=hf["num_hidden_layers"],
        hidden_size=hf["hidden_size"],
        ffn_hidden_size=hf["intermediate_size"],
        num_attention_heads=hf["num_attention_heads"],
        num_query_groups=hf.get("num_key_value_heads") or hf["num_attention_heads"],
        kv_channels=hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"],
        layernorm_epsilon=hf["rms_norm_eps"],
        normalization="RMSNorm",
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        add_qkv_bias=architecture == "Qwen2ForCausalLM" or bool(hf.get("attention_bias")),
        qk_layernorm=architecture == "Qwen3ForCausalLM",
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        use_cpu_initialization=not torch.cuda.is_available(),
        perform_initialization=False,
        # Each batch knows its own normaliser, so that gradients are summed over replicas, never averaged.
        calculate_per_token_loss=True,
        variable_seq_lengths=settings.pipeline_parallel > 1,
        moe_token_dispatcher_type="alltoall",  # asked for with variable lengths, though no model here has experts
        tensor_model_parallel_size=settings.tensor_parallel,
        sequence_parallel=settings.sequence_parallel,
        pipeline_model_parallel_size=settings.pipeline_parallel,
        virtual_pipeline_model_parallel_size=settings.pipeline_chunks if settings.pipeline_chunks > 1 else None,
        context_parallel_size=settings.context_parallel,
        **(recompute if settings.recompute else {}),
        bf16=dtype == torch.bfloat16,
        params_dtype=dtype,
        pipeline_dtype=dtype,
    )


def build_model(hf: dict[str, Any], settings: MegatronSettings, device: torch.device) -> list[PolicyModel]:
    """This rank's empty share of the model (weights are loaded by `stages.megatron.weights`): one `PolicyModel`, or
    with `pipeline_chunks` as many."""
    config = transformer_config(hf, settings)
    chunks = [_chunk(hf, settings, config, number) for number in range(settings.pipeline_chunks)]
    return [chunk.to(device=device, dtype=config.params_dtype) for chunk in chunks]


def _chunk(hf: dict[str, Any], settings: MegatronSettings, config: TransformerConfig, number: int) -> PolicyModel:
    virtual = {"ignore_virtual": False, "vp_stage": number if settings.pipeline_chunks > 1 else None}
    rope = _rope(hf)
    with cuda_or_cpu():
        model = PolicyModel(
            config=config,
            transformer_layer_spec=layer_spec(config),
            vocab_size=hf["vocab_size"],
            max_sequence_length=hf["max_position_embeddings"],
            pre_process=parallel_state.is_pipeline_first_stage(**virtual),
            post_process=parallel_state.is_pipeline_last_stage(**virtual),
            share_embeddings_and_output_weights=bool(hf.get("tie_word_embeddings")),
            position_embedding_type="rope",
            rotary_base=rope["base"],
            rope_scaling=rope["factor"] is not None,
            rope_scaling_factor=rope["factor"] or 1.0,
            vp_stage=virtual["vp_stage"],
        )
    model.rotary_pos_emb = RotaryByPosition(model.rotary_pos_emb.inv_freq)
    model.vocabulary = Vocabulary(hf["vocab_size"], settings.logprob_chunk_tokens)
    _mark_split_parameters(model)
    return model


def layer_spec(config: TransformerConfig) -> ModuleSpec:
    """Megatron's local layer, with attention on PyTorch's fused kernel."""
    spec = get_gpt_layer_local_spec(qk_layernorm=config.qk_layernorm, normalization="RMSNorm")
    spec.submodules.self_attention.submodules.core_attention = PackedAttention
    return spec


def _mark_split_parameters(model: PolicyModel) -> None:
    """Tell which parameters are split over tensor-parallel ranks, and along which dimension.

    Megatron only notes it while it draws random weights, which a model that is about to be loaded does without.
    """
    for name, parameter in model.named_parameters():
        for suffix, dimension in _SPLIT_DIMENSION.items():
            if f"{suffix}." in name and not hasattr(parameter, "tensor_model_parallel"):
                set_tensor_model_parallel_attributes(parameter, is_parallel=True, dim=dimension, stride=1)


def _rope(hf: dict[str, Any]) -> dict[str, Any]:
    parameters = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    base = parameters.get("rope_theta", hf.get("rope_theta", 10000.0))
    if kind == "default":
        return {"base": base, "factor": None}
    llama3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    if kind == "llama3" and all(parameters.get(key, value) == value for key, value in llama3.items()):
        return {"base": base, "factor": parameters["factor"]}
    raise StageError(f"RoPE scaling {parameters} is not supported; supported are 'default' and Llama 3's own numbers")
