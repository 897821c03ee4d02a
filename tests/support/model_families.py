"""A small random model of every family, with what is easily lost set apart: biases, uneven sizes, options."""

from pathlib import Path

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    NemotronConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

SIZE = {
    "vocab_size": 321,  # no multiple of 2: split over ranks, it is padded
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "head_dim": 24,  # not hidden_size / num_attention_heads
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 2.0,
    "high_freq_factor": 6.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
GEMMA3_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
LAYERS = ["sliding_attention", "full_attention"]
FAMILIES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZE),
    "llama-tied": LlamaConfig(**SIZE, tie_word_embeddings=True),
    "llama-biased": LlamaConfig(**SIZE, attention_bias=True, mlp_bias=True, rope_parameters=LINEAR),
    "llama-mlp-bias": LlamaConfig(**SIZE, mlp_bias=True, rope_parameters=LLAMA3),
    "mistral": MistralConfig(**SIZE, sliding_window=None),
    "mistral-window": MistralConfig(**SIZE, sliding_window=7),
    "qwen2": Qwen2Config(**{**SIZE, "head_dim": 16}),
    "qwen2-window": Qwen2Config(
        **{**SIZE, "head_dim": 16}, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "qwen3": Qwen3Config(**SIZE),
    "nemotron": NemotronConfig(**SIZE),
    "nemotron-biased": NemotronConfig(**SIZE, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "gemma2": Gemma2Config(
        **SIZE, sliding_window=6, query_pre_attn_scalar=50, attn_logit_softcapping=2.0, final_logit_softcapping=20.0
    ),
    "gemma3": Gemma3TextConfig(
        **SIZE, sliding_window=6, query_pre_attn_scalar=50, layer_types=LAYERS, rope_parameters=GEMMA3_ROPE
    ),
    "gemma3-untied": Gemma3TextConfig(
        **SIZE, tie_word_embeddings=False, final_logit_softcapping=20.0, layer_types=LAYERS
    ),
}


def reference(family: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The family's model in Transformers, with random biases and norms: what starts at 0 or 1 would hide a loss."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family], attn_implementation="eager").eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.2)
    return model.to(dtype)


def write(family: str, directory: Path, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """Save the family's model as a Hugging Face directory and return it."""
    model = reference(family, dtype)
    model.save_pretrained(directory)
    return model
