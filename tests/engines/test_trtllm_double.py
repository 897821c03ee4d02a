"""The double of `tensorrt_llm` is as strict as the library and has its traps, as documented."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stages.engines.trtllm_watch import returns_within
from tests.support.trtllm_double import install
from tests.support.trtllm_world import EOS, TURN_END, RequestError, World, always, checkpoint

Open = Callable[..., tuple[Any, Any]]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """`library(world, **arguments)` gives the bare module and an LLM of it, without the engine."""

    def opened(world: World, **arguments: Any) -> tuple[Any, Any]:
        module = install(monkeypatch, world)
        return module, module.LLM(model=str(checkpoint(tmp_path)), **arguments)

    return opened


def test_unknown_arguments_raise(library: Open) -> None:
    module, _ = library(World())
    with pytest.raises(ValueError, match="invalid argument: quant_config"):
        library(World(), quant_config=None)
    with pytest.raises(ValueError, match="enable_trtllm_sampler"):
        library(World(version="1.1.0"), enable_trtllm_sampler=True)
    with pytest.raises(ValueError, match="sampler_type"):
        library(World(version="1.0.0"), sampler_type="auto")
    with pytest.raises(ValueError, match="sampler_type"):
        library(World(version="1.3.0rc26"), sampler_type="auto")
    library(World(version="1.3.0rc20"), sampler_type="auto")
    with pytest.raises(TypeError, match="max_new_tokens"):
        module.SamplingParams(max_new_tokens=3)
    with pytest.raises(AttributeError):
        module.SamplingParams().temprature = 0.5
    with pytest.raises(ValueError, match="block_reuse"):
        module.llmapi.KvCacheConfig(block_reuse=True)
    with pytest.raises(ValueError, match="padding"):
        module.llmapi.CudaGraphConfig(padding=True)


def test_new_sampling_argument_is_refused_by_old_versions(library: Open) -> None:
    assert library(World(version="1.2.1"))[0].SamplingParams(prompt_ignore_length=3).prompt_ignore_length == 3
    with pytest.raises(TypeError, match="prompt_ignore_length"):
        library(World(version="1.1.0"))[0].SamplingParams(prompt_ignore_length=3)


@pytest.mark.parametrize("wrong", [{"top_p": 1.5}, {"top_k": -1}, {"temperature": -1.0}, {"n": 2}])
def test_values_out_of_range_raise(library: Open, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"require|greedy"):
        library(World())[0].SamplingParams(**wrong)


def test_default_is_greedy_and_32_tokens(library: Open) -> None:
    def write(_prompt: Any, rng: random.Random | None) -> list[int]:
        return [10] * 40 if rng is None else [11] * 40

    module, llm = library(World(write=write))
    assert llm.generate_async([5]).result().outputs[0].token_ids == [10] * 32
    sampled = llm.generate_async([5], module.SamplingParams(top_p=0.9)).result()
    assert sampled.outputs[0].token_ids == [11] * 32


def test_first_use_writes_into_the_parameters(library: Open) -> None:
    for version, stops in [("1.2.0", None), ("1.2.1", [TURN_END])]:
        module, llm = library(World(version=version))
        parameters = module.SamplingParams()
        llm.generate_async([5], parameters)
        assert (parameters.end_id, parameters.stop_token_ids) == (EOS, stops)


def test_token_limit_is_lowered_silently(library: Open) -> None:
    module, llm = library(World(write=always(*[10] * 40)), max_seq_len=8)
    output = llm.generate_async([5, 6, 7], module.SamplingParams(max_tokens=20)).result().outputs[0]
    assert (len(output.token_ids), output.finish_reason) == (5, "length")


def test_prompt_longer_than_the_token_budget_is_refused_at_submission(library: Open) -> None:
    for version, error in [("1.2.0", ValueError), ("1.2.1", RequestError)]:
        _, llm = library(World(version=version), max_num_tokens=4)
        with pytest.raises(error, match="max_num_tokens"):
            llm.generate_async([5] * 5)


def test_generate_loses_results_on_one_error(library: Open) -> None:
    world = World(failures={(6,): RequestError("bad")})
    _, llm = library(world)
    with pytest.raises(RequestError):
        llm.generate([[5], [6], [7]])
    assert len(world.submitted) == 3


def test_siblings_of_n_have_no_finish_reason_before_121(library: Open) -> None:
    for version, reasons in [("1.2.0", [None, "stop"]), ("1.2.1", ["stop", "stop"])]:
        module, llm = library(World(version=version))
        outputs = llm.generate_async([5], module.SamplingParams(n=2, temperature=1.0)).result().outputs
        assert [output.finish_reason for output in outputs] == reasons


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0", "1.2.0"])
def test_the_torch_sampler_ignores_the_temperature_beside_top_p_before_12(library: Open, version: str) -> None:
    sampler = {"enable_mixed_sampler": True} if version == "1.0.0" else {"sampler_type": "TorchSampler"}
    module, llm = library(World(version=version), **sampler)
    greedy = llm.generate_async([5], module.SamplingParams(temperature=0)).result().outputs[0]
    beside = llm.generate_async([5], module.SamplingParams(temperature=0, top_p=0.9)).result().outputs[0]
    assert greedy.token_ids == [10, 11, EOS]
    assert (beside.token_ids == greedy.token_ids) == (version == "1.2.0")


@pytest.mark.parametrize(("sampler", "kept"), [("TorchSampler", [20, EOS]), ("TRTLLMSampler", [20])])
def test_each_sampler_treats_the_end_id_in_its_way(library: Open, sampler: str, kept: list[int]) -> None:
    module, llm = library(World(write=always(20, EOS)), sampler_type=sampler)
    output = llm.generate_async([5], module.SamplingParams(logprobs=1)).result().outputs[0]
    assert (output.token_ids, len(output.logprobs), output.text) == (kept, len(kept), "t20")
    quiet = llm.generate_async([5], module.SamplingParams(detokenize=False)).result().outputs[0]
    assert (quiet.token_ids, quiet.text) == (kept, "")


def test_a_dead_worker_leaves_everybody_waiting(library: Open) -> None:
    _, llm = library(World(dies_at=(6,)))
    futures = [llm.generate_async([token]) for token in (5, 6, 7)]
    for wait in (*(future.result for future in futures), llm.shutdown):
        assert not returns_within(0.05, wait)


def test_no_worker_starts_within_a_step_of_srun(library: Open) -> None:
    def start(gpus: int, **environment: str) -> None:
        library(World(environment=environment), tensor_parallel_size=gpus)

    start(2, PATH="/bin")
    start(1, TLLM_WORKER_USE_SINGLE_PROCESS="1", SLURM_JOB_ID="7")
    start(2, TLLM_SPAWN_PROXY_PROCESS="1", tllm_mpi_size="2")
    with pytest.raises(RuntimeError, match="MPI_Comm_spawn"):
        start(1, SLURM_JOB_ID="7")
    with pytest.raises(RuntimeError, match="several GPUs"):
        start(2, TLLM_WORKER_USE_SINGLE_PROCESS="1")
    with pytest.raises(RuntimeError, match="launcher"):
        start(2, TLLM_SPAWN_PROXY_PROCESS="1", tllm_mpi_size="4")


def test_length_above_the_models_positions_is_lowered_silently(library: Open, tmp_path: Path) -> None:
    module, _ = library(World())
    llm = module.LLM(model=str(checkpoint(tmp_path, max_position_embeddings=16)), max_seq_len=32)
    assert llm.max_seq_len == 16


def test_blocks_of_a_prompt_are_found_again(library: Open) -> None:
    _, llm = library(World())
    assert [llm.generate_async([5, 6]).cached_tokens for _ in range(2)] == [0, 2]
