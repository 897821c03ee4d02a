"""Counts of weights: Transformers' own, and numbers that are known."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from stages.model_files.families import architecture
from stages.model_files.size import layer_size, parameters, rank_parameters
from tests.support.known_models import LLAMA3_8B, SMOLLM2
from tests.support.model_families import FAMILIES


def test_known_models() -> None:
    assert parameters(architecture(SMOLLM2)) == 134_515_008
    assert parameters(architecture(LLAMA3_8B)) == 8_030_261_248


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_counts_as_in_transformers(family: str) -> None:
    config = FAMILIES[family]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    facts = config.to_dict() | {"architectures": [type(model).__name__]}
    assert parameters(architecture(facts)) == model.num_parameters()


def test_ranks_share_what_is_split() -> None:
    facts = architecture(LLAMA3_8B)
    layer = layer_size(facts)
    assert layer.whole == 2 * 4096
    assert rank_parameters(facts, 4, 1) == 32 * (layer.split // 4 + layer.whole) + 2 * 128256 // 4 * 4096 + 4096
    assert rank_parameters(facts, 1, 4) == 8 * sum(layer) + 128256 * 4096 + 4096, "one end has half of the vocabulary"


def test_a_stage_of_a_pipeline_has_its_own_copy_of_a_tied_embedding() -> None:
    facts = architecture(SMOLLM2)
    assert rank_parameters(facts, 1, 2) == 15 * sum(layer_size(facts)) + 49152 * 576 + 576
