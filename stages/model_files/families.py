"""Model families: what a Hugging Face configuration asks of the model, in one vocabulary for all of them.

Pure; imports neither torch nor Megatron. Defaults of absent keys are those of the family's class in Transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from stages.contracts.errors import StageError

Norm = Literal["rms", "rms_plus_one", "layer_plus_one"]
ROPE_KINDS = ("default", "linear", "llama3")


@dataclass(frozen=True)
class Family:
    """What all models of one architecture have in common."""

    norm: Norm = "rms"
    epsilon: str = "rms_norm_eps"
    activation: str = "silu"
    activation_key: str = "hidden_act"
    gated: bool = True
    qkv_bias: bool | None = None
    """Fixed by the family; None: `attention_bias` decides, for the output projection too."""
    mlp_bias: bool | None = False
    """Fixed by the family; None: `mlp_bias` decides."""
    qk_norm: bool = False
    gemma: bool = False
    """Norms after attention and MLP too, scaled embeddings, own attention scale, soft caps; tied unless it says no."""
    rotated: float = 1.0
    """Share of each head's dimensions that is rotated, where `partial_rotary_factor` may say otherwise below 1."""


FAMILIES = {
    "LlamaForCausalLM": Family(mlp_bias=None),
    "MistralForCausalLM": Family(qkv_bias=False),
    "Qwen2ForCausalLM": Family(qkv_bias=True),
    "Qwen3ForCausalLM": Family(qk_norm=True),
    "NemotronForCausalLM": Family(
        norm="layer_plus_one", epsilon="norm_eps", activation="relu2", gated=False, mlp_bias=None, rotated=0.5
    ),
    "Gemma2ForCausalLM": Family(
        norm="rms_plus_one", activation="gelu_pytorch_tanh", activation_key="hidden_activation", gemma=True
    ),
    "Gemma3ForCausalLM": Family(
        norm="rms_plus_one",
        activation="gelu_pytorch_tanh",
        activation_key="hidden_activation",
        gemma=True,
        qk_norm=True,
    ),
}


@dataclass(frozen=True)
class Rope:
    """Rotary embedding of one kind of layer: `dimensions` of each head are rotated."""

    base: float
    dimensions: int
    kind: str = "default"
    factor: float = 1.0
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    original_length: int = 0


@dataclass(frozen=True)
class Architecture:
    """One model. Scales and caps are None where it has none; tuples over layers go from the first to the last."""

    family: Family
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    groups: int
    head_dimension: int
    vocabulary: int
    positions: int
    """Longest sequence that the model was made for."""
    tied: bool
    epsilon: float
    qkv_bias: bool
    projection_bias: bool
    mlp_bias: bool
    embedding_scale: float | None
    softmax_scale: float | None
    """Of the attention scores; None: 1 / sqrt(head_dimension)."""
    attention_softcap: float | None
    """c: attention scores s become c tanh(s / c)."""
    logit_softcap: float | None
    windows: tuple[int | None, ...]
    """Positions that a layer's query sees, itself included: q - window < k <= q; None: all before it."""
    ropes: tuple[Rope, ...]
    rope_of_layer: tuple[int, ...]


def architecture(hf: Mapping[str, Any]) -> Architecture:
    """Read a `config.json`; StageError for an unsupported architecture or option, or a missing key."""
    name = (hf.get("architectures") or ["unknown"])[0]
    if name not in FAMILIES:
        raise StageError(f"architecture {name} is not supported; supported are {', '.join(FAMILIES)}")
    try:
        return _architecture(hf, name, FAMILIES[name])
    except KeyError as error:
        raise StageError(f"key {error.args[0]!r} is missing, which {name} needs") from error


def _architecture(hf: Mapping[str, Any], name: str, family: Family) -> Architecture:
    _refuse_options(hf, family)
    heads = hf["num_attention_heads"]
    head_dimension = hf.get("head_dim") or (256 if family.gemma else hf["hidden_size"] // heads)
    biased = bool(hf.get("attention_bias", False))
    sliding = _sliding(hf, name)
    ropes = _ropes(hf, name, head_dimension)
    second = name == "Gemma2ForCausalLM"
    return Architecture(
        family=family,
        layers=hf["num_hidden_layers"],
        hidden=hf["hidden_size"],
        feed_forward=hf["intermediate_size"],
        heads=heads,
        groups=hf.get("num_key_value_heads") or heads,
        head_dimension=head_dimension,
        vocabulary=hf["vocab_size"],
        positions=hf["max_position_embeddings"],
        tied=bool(hf.get("tie_word_embeddings", family.gemma)),
        epsilon=hf.get(family.epsilon, 1e-5 if family.norm == "layer_plus_one" else 1e-6),
        qkv_bias=biased if family.qkv_bias is None else family.qkv_bias,
        projection_bias=biased and family.qkv_bias is None,
        mlp_bias=bool(hf.get("mlp_bias", False)) if family.mlp_bias is None else family.mlp_bias,
        embedding_scale=hf["hidden_size"] ** 0.5 if family.gemma else None,
        softmax_scale=hf.get("query_pre_attn_scalar", 256) ** -0.5 if family.gemma else None,
        attention_softcap=hf.get("attn_logit_softcapping", 50.0) if second else None,
        logit_softcap=hf.get("final_logit_softcapping", 30.0 if second else None) if family.gemma else None,
        windows=tuple(hf.get("sliding_window", 4096) if slides else None for slides in sliding),
        ropes=ropes,
        rope_of_layer=tuple(int(slides and len(ropes) > 1) for slides in sliding),
    )


def _refuse_options(hf: Mapping[str, Any], family: Family) -> None:
    activation = hf.get(family.activation_key) or family.activation
    if activation != family.activation:
        raise StageError(f"{family.activation_key} {activation!r} is not supported, only {family.activation!r}")
    for option in ("quantization_config", "use_bidirectional_attention"):
        if hf.get(option):
            raise StageError(f"{option} is not supported; only plain causal models in a floating-point type are")


def _sliding(hf: Mapping[str, Any], name: str) -> list[bool]:
    """Which layers have a sliding window: Mistral's all, Qwen's upper ones, most of Gemma's."""
    layers = range(hf["num_hidden_layers"])
    if name == "MistralForCausalLM":
        return [True for _ in layers]
    if name.startswith("Qwen") and hf.get("use_sliding_window"):
        return _typed(hf, [layer >= hf.get("max_window_layers", 28) for layer in layers])
    if name.startswith("Gemma"):
        period = hf.get("sliding_window_pattern", 6) if name == "Gemma3ForCausalLM" else 2
        return _typed(hf, [(layer + 1) % period != 0 for layer in layers])
    return [False for _ in layers]


def _typed(hf: Mapping[str, Any], otherwise: list[bool]) -> list[bool]:
    """What `layer_types` says, or `otherwise` if it is absent."""
    kinds = hf.get("layer_types")
    if kinds is None:
        return otherwise
    if set(kinds) - {"sliding_attention", "full_attention"} or len(kinds) != len(otherwise):
        raise StageError(
            f"layer_types {kinds} are not supported; 'sliding_attention' or 'full_attention' for each layer are"
        )
    return [kind == "sliding_attention" for kind in kinds]


def _ropes(hf: Mapping[str, Any], name: str, head_dimension: int) -> tuple[Rope, ...]:
    """The rotary embedding of full layers, and for Gemma 3 that of sliding ones."""
    parameters = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    if name != "Gemma3ForCausalLM":
        return (_rope(hf, parameters, hf.get("rope_theta", 10_000.0), head_dimension),)
    # Older files hold the scaling of full layers alone.
    full = parameters.get("full_attention") or {key: v for key, v in parameters.items() if key != "sliding_attention"}
    sliding = parameters.get("sliding_attention") or {}
    return (
        _rope(hf, full, hf.get("rope_theta", 1_000_000.0), head_dimension),
        _rope(hf, sliding, hf.get("rope_local_base_freq", 10_000.0), head_dimension),
    )


def _rope(hf: Mapping[str, Any], parameters: Mapping[str, Any], base: float, head_dimension: int) -> Rope:
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in ROPE_KINDS:
        raise StageError(f"rope_type {kind!r} is not supported; supported are {', '.join(ROPE_KINDS)}")
    family = FAMILIES[hf["architectures"][0]]
    share = parameters.get("partial_rotary_factor", hf.get("partial_rotary_factor", family.rotated))
    if share != 1 and family.rotated == 1:
        raise StageError(f"partial_rotary_factor {share} is not supported for {hf['architectures'][0]}")
    scaled = kind != "default"
    return Rope(
        base=parameters.get("rope_theta", base),
        dimensions=int(head_dimension * share),
        kind=kind,
        factor=parameters["factor"] if scaled else 1.0,
        low_frequency=parameters["low_freq_factor"] if kind == "llama3" else 1.0,
        high_frequency=parameters["high_freq_factor"] if kind == "llama3" else 4.0,
        original_length=parameters.get("original_max_position_embeddings") or hf["max_position_embeddings"],
    )
