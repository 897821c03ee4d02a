"""Memory, disk and hours, worked out by hand."""

import pytest

from stages.config import MegatronSettings
from stages.forecast.amounts import Amount, exactly
from stages.forecast.disk import disk
from stages.forecast.memory import rank_memory
from stages.forecast.rates import Rates
from stages.forecast.requests import Asked
from stages.model_files.families import architecture
from tests.support.known_models import LLAMA3_8B, SMOLLM2
from tests.support.small_plan import EFT, small


def test_memory_of_one_rank() -> None:
    settings = MegatronSettings(dtype="bfloat16", micro_batch_tokens=4096, logprob_chunk_tokens=1024)
    memory = rank_memory(architecture(SMOLLM2), settings)
    count = 134_515_008
    assert (memory.weights, memory.gradients, memory.optimizer) == (2 * count, 4 * count, 12 * count)
    layer = 2 * (2 + 8) * 576 + 2 * (4 * 576 + 5 * 192 + 5 * 1536)
    assert memory.activations == 4096 * 30 * layer
    assert memory.vocabulary == 8 * 1024 * 49152 + 4 * 49152 * 576
    assert memory.total == 18 * count + memory.activations + memory.vocabulary


def test_memory_of_a_layout() -> None:
    model = architecture(LLAMA3_8B)
    settings = MegatronSettings(
        processes=8, tensor_parallel=4, sequence_parallel=True, distributed_optimizer=True, dtype="bfloat16"
    )
    memory = rank_memory(model, settings)
    assert memory.optimizer == 12 * memory.parameters / 2, "two replicas share it"
    layer = (2 * (2 + 8) * 4096 + 2 * (4 * 4096 + 5 * 1024 + 5 * 14336)) / 4
    assert memory.activations == 16384 * 32 * layer
    recomputed = rank_memory(model, settings.model_copy(update={"recompute": True}))
    assert recomputed.activations == 16384 * (32 * 2 * 1024 + layer)


@pytest.mark.parametrize(("chunks", "factor"), [(1, 1), (2, 1 + 3 / 8)])
def test_a_pipelines_first_group_holds_a_micro_batch_of_each_group(chunks: int, factor: float) -> None:
    settings = MegatronSettings(processes=4, pipeline_parallel=4, pipeline_chunks=chunks)
    alone = rank_memory(architecture(LLAMA3_8B), MegatronSettings())
    assert rank_memory(architecture(LLAMA3_8B), settings).activations == alone.activations * factor


def test_disk() -> None:
    asked = [Asked(1, "candidates", exactly(1), exactly(1), exactly(1), Amount(10, 100))] * 2
    space = disk(small(**EFT), asked, 1000)
    assert space.tables == Amount(160, 1600)
    assert space.models == 3 * 4000, "models 0, 1 and 2; the base model is linked"
    assert space.checkpoints == 3 * 12000, "two are kept while the third is written"
    assert disk(small(), asked, None).models is None


def test_hours() -> None:
    tokens = Amount(3600, 7200)
    assert Rates(generate=2).hours("judge", tokens) == Amount(0.5, 1)
    assert Rates(train=1).hours("reference_logprobs", tokens) == Amount(1 / 3, 2 / 3)
    assert Rates().hours("train", tokens) == Amount(None, None)
    measured = Rates(measured={"candidates": 1, "judge": 2, "train": 4})
    assert [measured.of(rule) for rule in ("candidates", "judge", "eft_judge", "evaluate", "sft")] == [1, 2, 2, 1, 4]
    assert Rates(generate=5, measured={"judge": 2}).of("judge") == 5, "what is stated goes first"
