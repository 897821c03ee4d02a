"""How many weights a model has, and how many of them a rank holds, from its architecture alone. Pure."""

from typing import NamedTuple

from stages.model_files.families import Architecture


class LayerSize(NamedTuple):
    """Weights of one layer."""

    split: int
    """Those that tensor-parallel ranks share."""
    whole: int
    """Those that each of them holds: norms, and biases that are added after the ranks' parts are summed."""


def layer_size(model: Architecture) -> LayerSize:
    """Weights of a layer: attention's four projections, the MLP's two or (gated) three, biases and norms."""
    queries, keys = model.heads * model.head_dimension, model.groups * model.head_dimension
    inner = (2 if model.family.gated else 1) * model.feed_forward
    split = model.hidden * (2 * queries + 2 * keys + inner + model.feed_forward)
    split += (queries + 2 * keys) * model.qkv_bias + inner * model.mlp_bias
    norms = (4 if model.family.gemma else 2) * _norm(model, model.hidden)
    norms += 2 * _norm(model, model.head_dimension) * model.family.qk_norm
    return LayerSize(split, norms + model.hidden * (model.projection_bias + model.mlp_bias))


def parameters(model: Architecture) -> int:
    """All weights; tied embeddings count once."""
    return rank_parameters(model, 1, 1)


def rank_parameters(model: Architecture, tensor: int, pipeline: int) -> int:
    """Weights of the rank that holds most, where `tensor` ranks share each layer and `pipeline` groups the layers.

    The first group holds the embedding, the last one the final norm and the output's rows, which are the embedding's
    where they are tied. Rows of the vocabulary are padded to a multiple of `tensor`.
    """
    layer = layer_size(model)
    layers = model.layers // pipeline * (-(-layer.split // tensor) + layer.whole)
    rows = -(-model.vocabulary // tensor) * model.hidden
    both = 2 if pipeline == 1 and not model.tied else 1
    return layers + both * rows + _norm(model, model.hidden)


def _norm(model: Architecture, width: int) -> int:
    """Weights of a norm; a layer norm has a bias, too."""
    return width * (2 if model.family.norm == "layer_plus_one" else 1)
