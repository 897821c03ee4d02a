"""Layouts are checked before anything loads, and a valid one is proposed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.config import MegatronSettings
from stages.contracts.errors import StageError
from stages.model_files.families import architecture
from stages.model_files.rank_layout import check_layout, propose

LLAMA_8B = architecture(
    {
        "architectures": ["LlamaForCausalLM"],
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
    }
)


def test_a_layout_that_fits_passes():
    check_layout(MegatronSettings(tensor_parallel=4, pipeline_parallel=2, distributed_optimizer=True), LLAMA_8B, 16)


@pytest.mark.parametrize(
    ("asked", "ranks", "wrong", "proposed"),
    [
        ({"tensor_parallel": 3}, 8, r"8 ranks are no multiple of tensor_parallel 3", "tensor_parallel 4"),
        (
            {"tensor_parallel": 16},
            16,
            r"num_key_value_heads \(8\) is not divisible by tensor_parallel 16",
            "parallel 8",
        ),
        ({"pipeline_parallel": 3}, 6, r"32 layers are not divisible by pipeline_parallel 3", "pipeline_parallel 2"),
        (
            {"pipeline_parallel": 4, "pipeline_chunks": 3},
            4,
            r"32 layers are not divisible by pipeline_parallel 4 x pipeline_chunks 3",
            "pipeline_parallel 4, context_parallel 1, pipeline_chunks 1",
        ),
        ({"context_parallel": 2, "tensor_parallel": 2}, 2, r"context_parallel 2", "tensor_parallel 2, "),
    ],
)
def test_what_does_not_fit_is_named_with_a_valid_layout(asked, ranks, wrong, proposed):
    with pytest.raises(StageError, match=wrong) as error:
        check_layout(MegatronSettings(**asked), LLAMA_8B, ranks)
    assert proposed in str(error.value).split("Valid for")[1]


DEGREE = st.integers(1, 8)


@given(st.integers(1, 16), DEGREE, DEGREE, DEGREE)
def test_what_is_proposed_is_valid_and_a_valid_layout_is_proposed_as_it_is(ranks, tensor, pipeline, context):
    asked = MegatronSettings(tensor_parallel=tensor, pipeline_parallel=pipeline, context_parallel=context)
    proposed = propose(asked, LLAMA_8B, ranks)
    check_layout(proposed, LLAMA_8B, ranks)
    try:
        check_layout(asked, LLAMA_8B, ranks)
    except StageError:
        return
    assert proposed == asked
