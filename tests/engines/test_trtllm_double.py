"""The double of `tensorrt_llm` is as strict as the library and has its traps, as documented."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.trtllm_double import EOS, TURN_END, RequestError, World, always, checkpoint, install

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
    with pytest.raises(TypeError, match="max_new_tokens"):
        module.SamplingParams(max_new_tokens=3)
    with pytest.raises(AttributeError):
        module.SamplingParams().temprature = 0.5
    with pytest.raises(ValueError, match="block_reuse"):
        module.llmapi.KvCacheConfig(block_reuse=True)


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
