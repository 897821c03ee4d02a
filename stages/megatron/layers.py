"""The modules in which model families differ, and the layer that Megatron builds of them.

`build_model` passes a `ModelConfig`, Megatron's configuration with the `Architecture` that it was made from; every
module here, and the core attention, reads its facts there.
"""

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from stages.megatron.attention import PackedAttention
from stages.megatron.logprobs import capped
from stages.megatron.norms import NORMS
from stages.megatron.rotary import RotaryByPosition
from stages.model_files.families import Architecture


@dataclass
class ModelConfig(TransformerConfig):  # type: ignore[misc]
    """Megatron's configuration, with the facts that it has no word for."""

    architecture: Architecture | None = None
    core_attention: type[PackedAttention] = PackedAttention


class QueryKeyValue(ColumnParallelLinear):  # type: ignore[misc]
    """Megatron gives this a bias whenever the MLP has one; families do not."""

    def __init__(self, *args: Any, config: ModelConfig, bias: bool, **kwargs: Any):
        super().__init__(*args, config=config, bias=_facts(config).qkv_bias, **kwargs)


class OutputProjection(RowParallelLinear):  # type: ignore[misc]
    """Attention's output projection, its bias as the family has it, and the norm that Gemma puts after it."""

    def __init__(self, *args: Any, config: ModelConfig, bias: bool, **kwargs: Any):
        super().__init__(*args, config=config, bias=_facts(config).projection_bias, **kwargs)
        self.post_norm = _post_norm(config)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[s, b, heads * d] -> [s, b, hidden] and the bias that is yet to be added."""
        return _normed(super().forward(x), self.post_norm)


class DownProjection(RowParallelLinear):  # type: ignore[misc]
    """The MLP's output projection, and the norm that Gemma puts after it."""

    def __init__(self, *args: Any, config: ModelConfig, **kwargs: Any):
        super().__init__(*args, config=config, **kwargs)
        self.post_norm = _post_norm(config)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """[s, b, feed_forward] -> [s, b, hidden] and the bias that is yet to be added."""
        return _normed(super().forward(x), self.post_norm)


class SelfAttentionOfItsKind(SelfAttention):  # type: ignore[misc]
    """Takes the rotary embedding of its kind of layer from the stack that `RotaryByPosition` makes."""

    def forward(self, *args: Any, rotary_pos_emb: torch.Tensor, **kwargs: Any) -> Any:
        """As Megatron's, with angles [s, ropes, 1, dimensions]."""
        kind = _facts(self.config).rope_of_layer[self.layer_number - 1]
        return super().forward(*args, rotary_pos_emb=rotary_pos_emb[:, kind : kind + 1], **kwargs)


def block_spec(config: ModelConfig, vp_stage: int | None = None) -> TransformerBlockSubmodules:
    """The layers of this pipeline stage (of its chunk `vp_stage`, where stages are interleaved) and the final norm."""
    family = _facts(config).family
    norm = NORMS[family.norm]
    qk_norm = norm if family.qk_norm else IdentityOp
    attention = SelfAttentionSubmodules(
        linear_qkv=QueryKeyValue,
        core_attention=config.core_attention,
        linear_proj=OutputProjection,
        q_layernorm=qk_norm,
        k_layernorm=qk_norm,
    )
    layer = TransformerLayerSubmodules(
        input_layernorm=norm,
        self_attention=ModuleSpec(
            module=SelfAttentionOfItsKind, params={"attn_mask_type": AttnMaskType.causal}, submodules=attention
        ),
        self_attn_bda=get_bias_dropout_add,
        pre_mlp_layernorm=norm,
        mlp=ModuleSpec(
            module=MLP, submodules=MLPSubmodules(linear_fc1=ColumnParallelLinear, linear_fc2=DownProjection)
        ),
        mlp_bda=get_bias_dropout_add,
    )
    layers = [ModuleSpec(module=TransformerLayer, submodules=layer)] * get_num_layers_to_build(config, vp_stage)
    return TransformerBlockSubmodules(layer_specs=layers, layer_norm=norm)


def adapt(model: GPTModel, device: torch.device) -> None:
    """What a specification cannot say: rotary embeddings, the scale of the embeddings, the soft cap of the logits."""
    facts = _facts(model.config)
    model.rotary_pos_emb = RotaryByPosition(facts.ropes, device)
    if facts.embedding_scale and hasattr(model, "embedding"):
        # Rounded like the embeddings, as in Transformers.
        scale = torch.tensor(facts.embedding_scale, dtype=model.config.params_dtype).item()
        model.embedding.register_forward_hook(lambda _, __, out: out * scale)
    if facts.logit_softcap and model.post_process:
        model.output_layer.register_forward_hook(lambda _, __, out: (capped(out[0], facts.logit_softcap), out[1]))


def _facts(config: ModelConfig) -> Architecture:
    assert config.architecture is not None
    return config.architecture


def _post_norm(config: ModelConfig) -> torch.nn.Module | None:
    facts = _facts(config)
    return NORMS[facts.family.norm](config, facts.hidden, facts.epsilon) if facts.family.gemma else None


def _normed(
    projected: tuple[torch.Tensor, torch.Tensor | None], norm: torch.nn.Module | None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    if norm is None:
        return projected
    out, bias = projected
    return norm(out if bias is None else out + bias), None
