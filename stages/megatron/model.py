"""Megatron's `GPTModel` from the architecture that a Hugging Face configuration describes."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from megatron.core import parallel_state
from megatron.core.activations import squared_relu
from megatron.core.tensor_parallel.layers import set_tensor_model_parallel_attributes

from stages.config import MegatronSettings
from stages.megatron.cpu import cuda_or_cpu
from stages.megatron.layers import ModelConfig, adapt, block_spec
from stages.megatron.mapping import split_dimension
from stages.megatron.policy import PolicyModel, Vocabulary
from stages.megatron.transformer_engine import core_attention
from stages.model_files.families import Architecture

_ACTIVATIONS = {
    "silu": F.silu,
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "relu2": squared_relu,
}


def transformer_config(facts: Architecture, settings: MegatronSettings) -> ModelConfig:
    """Megatron's configuration of a model."""
    dtype = getattr(torch, settings.dtype)
    recompute = {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    options: dict[str, Any] = recompute if settings.recompute else {}
    return ModelConfig(
        architecture=facts,
        num_layers=facts.layers,
        hidden_size=facts.hidden,
        ffn_hidden_size=facts.feed_forward,
        num_attention_heads=facts.heads,
        num_query_groups=facts.groups,
        kv_channels=facts.head_dimension,
        layernorm_epsilon=facts.epsilon,
        normalization="LayerNorm" if facts.family.norm == "layer_plus_one" else "RMSNorm",
        gated_linear_unit=facts.family.gated,
        activation_func=_ACTIVATIONS[facts.family.activation],
        add_bias_linear=facts.mlp_bias,
        add_qkv_bias=facts.qkv_bias,
        qk_layernorm=facts.family.qk_norm,
        softmax_scale=facts.softmax_scale,
        hidden_dropout=0.0,
        cuda_graph_scope=[],  # the default is deprecated, and each rank would say so
        attention_dropout=0.0,
        bias_activation_fusion=False,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
        use_cpu_initialization=not torch.cuda.is_available(),
        perform_initialization=False,
        # Each batch knows its own normaliser, so that gradients are summed over replicas, never averaged.
        calculate_per_token_loss=True,
        variable_seq_lengths=settings.pipeline_parallel > 1 and settings.pipeline_chunks == 1,
        moe_token_dispatcher_type="alltoall",  # asked for with variable lengths, though no model here has experts
        tensor_model_parallel_size=settings.tensor_parallel,
        sequence_parallel=settings.sequence_parallel,
        pipeline_model_parallel_size=settings.pipeline_parallel,
        virtual_pipeline_model_parallel_size=settings.pipeline_chunks if settings.pipeline_chunks > 1 else None,
        context_parallel_size=settings.context_parallel,
        **options,
        bf16=dtype == torch.bfloat16,
        params_dtype=dtype,
        pipeline_dtype=dtype,
    )


def build_model(facts: Architecture, settings: MegatronSettings, device: torch.device) -> list[PolicyModel]:
    """This rank's empty share of the model (weights are loaded by `stages.megatron.weights`): one `PolicyModel`, or
    with `pipeline_chunks` as many."""
    config = transformer_config(facts, settings)
    config.core_attention = core_attention(config, settings, device)
    chunks = []
    for number in range(settings.pipeline_chunks):
        chunk = _chunk(facts, config, number if settings.pipeline_chunks > 1 else None)
        adapt(chunk, device)
        chunk.vocabulary = Vocabulary(facts.vocabulary, settings.logprob_chunk_tokens, facts.logit_softcap)
        _mark_split_parameters(chunk)
        chunks.append(chunk.to(device=device, dtype=config.params_dtype))
    return chunks


def _chunk(facts: Architecture, config: ModelConfig, stage: int | None) -> PolicyModel:
    with cuda_or_cpu():
        return PolicyModel(
            config=config,
            transformer_layer_spec=block_spec(config, stage),
            vocab_size=padded_vocabulary(facts.vocabulary, config.tensor_model_parallel_size),
            max_sequence_length=facts.positions,
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage),
            share_embeddings_and_output_weights=facts.tied,
            position_embedding_type="rope",
            vp_stage=stage,
        )


def padded_vocabulary(vocabulary: int, tensor_parallel: int) -> int:
    """Rows of the embedding once it is split over `tensor_parallel` ranks: the next multiple."""
    return -(-vocabulary // tensor_parallel) * tensor_parallel


def _mark_split_parameters(model: PolicyModel) -> None:
    """Tell which parameters are split over tensor-parallel ranks, and along which dimension.

    Megatron only notes it while it draws random weights, which a model that is about to be loaded does without.
    """
    for name, parameter in model.named_parameters():
        dimension = split_dimension(name)
        if dimension is not None and not hasattr(parameter, "tensor_model_parallel"):
            set_tensor_model_parallel_attributes(parameter, is_parallel=True, dim=dimension, stride=1)
