"""What the TensorRT-LLM engine is constructed with, and what of checkpoint and installation is refused."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from stages.config import EngineSettings, resolve
from stages.config.generation import TRTLLM_OWN
from stages.config.whole import load
from stages.contracts.errors import StageError
from stages.engines import open_engine
from stages.engines.trtllm import TrtllmEngine
from stages.engines.trtllm_arguments import LAUNCHER, SINGLE_PROCESS, supported_release
from stages.engines.trtllm_checkpoint import check_positions, read_text_config
from tests.support.trtllm_double import install
from tests.support.trtllm_engine import Open
from tests.support.trtllm_world import EOS, TURN_END, VERSIONS, World, checkpoint


def settings() -> EngineSettings:
    return EngineSettings(backend="trtllm")


@pytest.mark.parametrize("version", VERSIONS)
def test_construction_says_everything_explicitly(engine: Open, model: Path, version: str) -> None:
    world = World(version=version)
    own = {"max_num_tokens": 4096, "max_batch_size": 300, "block_reuse": False, "kv_cache_dtype": "fp8"}
    with engine(world, tensor_parallel_size=2, extra={"enable_autotuner": False}, **own):
        pass
    (arguments,) = world.constructed
    kv_cache, graphs = arguments.pop("kv_cache_config"), arguments.pop("cuda_graph_config")
    switches = {"1.0.0": {"enable_trtllm_sampler": True}, "1.1.0": {"sampler_type": "TRTLLMSampler"}, "1.3.0rc26": {}}
    assert arguments == {
        "model": str(model),
        "dtype": "auto",
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "max_seq_len": 64,
        "max_num_tokens": 4096,
        "max_batch_size": 300,
        "enable_chunked_prefill": False,
        "enable_autotuner": False,
        **switches.get(version, {"sampler_type": "TorchSampler"}),
    }
    assert (kv_cache.enable_block_reuse, kv_cache.free_gpu_memory_fraction, kv_cache.dtype) == (False, 0.9, "fp8")
    assert kv_cache.host_cache_size is None
    assert (graphs.max_batch_size, graphs.enable_padding) == (300, True)
    assert world.shutdowns == 1


def test_prompts_are_prefilled_in_chunks_only_where_one_may_exceed_a_step(engine: Open) -> None:
    for longest, chunked in [(64, False), (65, True)]:
        world = World()
        with engine(world, max_sequence_length=longest, max_num_tokens=64):
            pass
        assert world.constructed[0]["enable_chunked_prefill"] == chunked


def test_the_engine_sets_no_argument_that_extra_may_set(engine: Open) -> None:
    for version in VERSIONS:
        world = World(version=version)
        with engine(world):
            pass
        assert world.constructed[0].keys() <= TRTLLM_OWN
    with pytest.raises(ValidationError, match="max_seq_len: set by the engine itself"):
        EngineSettings(trtllm={"extra": {"max_seq_len": 5, "trust_remote_code": True}})


def test_stop_tokens_are_those_of_template_tokenizer_and_checkpoint(engine: Open, model: Path) -> None:
    with engine(World()) as it:
        assert it.stop_ids == [EOS, TURN_END]
    (model / "generation_config.json").unlink()
    with engine(World()) as it:
        assert it.stop_ids == [EOS]
    (model / "tokenizer.json").unlink()
    with pytest.raises(StageError, match=r"tokenizer\.json: no such file"), engine(World()):
        pass


ROTARY = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0}


@pytest.mark.parametrize(
    "config",
    [
        {"max_position_embeddings": 100},
        {"max_position_embeddings": 50, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"max_position_embeddings": 50, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_theta": 5e5, "rope_scaling": {**ROTARY}, "rope_parameters": {**ROTARY}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"text_config": {"max_position_embeddings": 100}},
    ],
)
def test_positions_that_suffice(model: Path, config: dict[str, Any]) -> None:
    checkpoint(model, **config)
    check_positions(model, read_text_config(model), 100)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"max_position_embeddings": 99}, "the model has 99 positions; lower engine.max_sequence_length"),
        (
            {"max_position_embeddings": 50, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
            "the model has 50 positions",
        ),
        ({"text_config": {"max_position_embeddings": 99}}, "the model has 99 positions"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, "rope_parameters, which TensorRT-LLM"),
        ({"rope_theta": 5e5, "rope_parameters": ROTARY}, "than rope_theta and rope_scaling: add these"),
    ],
)
def test_positions_that_do_not_suffice_are_refused_before_anything_is_loaded(
    engine: Open, model: Path, config: dict[str, Any], words: str
) -> None:
    checkpoint(model, **config)
    world = World()
    with pytest.raises(StageError, match=words), engine(world, max_sequence_length=100):
        pass
    assert not world.constructed
    assert not world.environment


@pytest.mark.parametrize(
    ("version", "stored", "told"),
    [
        ("1.0.0", {"dtype": "float16"}, "float16"),
        ("1.0.0", {"torch_dtype": "float16"}, "auto"),
        ("1.2.1", {"dtype": "float16"}, "auto"),
    ],
)
def test_the_stored_type_is_named_where_the_library_cannot_read_it(
    engine: Open, model: Path, version: str, stored: dict[str, str], told: str
) -> None:
    (model / "config.json").write_text(json.dumps({"max_position_embeddings": 100, **stored}))
    world = World(version=version)
    with engine(world):
        pass
    assert world.constructed[0]["dtype"] == told


def test_missing_library_names_the_remedy(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    with (
        pytest.raises(StageError, match=r"cannot be imported .* docs/tensorrt-llm\.md"),
        open_engine(model, settings()),
    ):
        pass


@pytest.mark.parametrize("version", ["0.20.0", "1.2.0rc6", "1.3.0", "1.3.0rc30", "1.4.0rc1", "unknown"])
def test_unknown_version_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    module = install(monkeypatch, World())
    module.__version__ = version
    words = rf"tensorrt_llm {version} is installed; .* 1\.0 to 1\.2 and 1\.3\.0rc1 to 1\.3\.0rc29"
    with pytest.raises(StageError, match=words), open_engine(model, settings()):
        pass


@pytest.mark.parametrize("version", ["1.2.1", "1.2.1.post1", "1.2.1+cu130", "1.3.0rc1", "1.3.0rc29"])
def test_known_versions_are_taken(version: str) -> None:
    assert supported_release(version)[:2] in [(1, 2), (1, 3)]


@pytest.mark.parametrize(
    ("version", "sampler", "words"),
    [
        ("1.0.0", "TorchSampler", r"ignores the temperature in TensorRT-LLM 1\.0: use TRTLLMSampler"),
        ("1.1.0", "TorchSampler", r"ignores the temperature in TensorRT-LLM 1\.1: use TRTLLMSampler"),
        ("1.3.0rc26", "TRTLLMSampler", r"gone since TensorRT-LLM 1\.3\.0rc26: set it to auto"),
    ],
)
def test_samplers_that_a_release_has_not_are_refused(engine: Open, version: str, sampler: str, words: str) -> None:
    world = World(version=version)
    with pytest.raises(StageError, match=words), engine(world, sampler=sampler):
        pass
    assert not world.constructed


STEP = {"SLURM_JOB_ID": "7", "PMIX_RANK": "0", "PMI_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}
NETWORK = {"OMPI_MCA_btl_tcp_if_include": "lo", "OMPI_ALLOW_RUN_AS_ROOT": "1", "CUDA_VISIBLE_DEVICES": "3"}


def started(engine: Open, **settings: int) -> dict[str, str]:
    """The environment, as far as tests set it, in which the library was imported."""
    world = World()
    with engine(world, **settings):
        pass
    names = {*STEP, *NETWORK, SINGLE_PROCESS, LAUNCHER, "tllm_mpi_size"}
    return {name: value for name, value in world.environment.items() if name in names}


def test_one_gpu_needs_no_worker_process(engine: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**STEP, **NETWORK}.items():
        monkeypatch.setenv(name, value)
    assert started(engine) == {**NETWORK, SINGLE_PROCESS: "1"}


def test_workers_of_several_gpus_are_not_started_from_a_rank(engine: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**STEP, **NETWORK, SINGLE_PROCESS: "1"}.items():
        monkeypatch.setenv(name, value)
    assert started(engine, tensor_parallel_size=2) == NETWORK


def test_what_the_launcher_started_is_left_as_it_is(engine: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = {LAUNCHER: "1", "tllm_mpi_size": "4", "SLURM_JOB_ID": "7"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    assert started(engine, tensor_parallel_size=2, pipeline_parallel_size=2) == launched
    with pytest.raises(StageError, match=r"runs 4 tasks, but .* is 2: start one task for each GPU"):
        started(engine, tensor_parallel_size=2)


def test_failure_to_load_is_one_sentence(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = install(monkeypatch, World())

    def no_gpu(**_: Any) -> None:
        raise RuntimeError("world size 8 exceeds the GPUs on this node (1)")

    module.LLM = no_gpu
    with pytest.raises(StageError, match=r"TensorRT-LLM 1\.2\.1 cannot load it: world size 8"):
        TrtllmEngine(model, settings()).__enter__()


def test_preset_follows_the_paper() -> None:
    """config/llama3-8b.yaml is valid and has the hyperparameters of arXiv 2407.19594, section 3 and appendix."""
    path = Path(__file__).parents[2] / "config" / "llama3-8b.yaml"
    config = load(yaml.safe_load(path.read_text()))
    assert config.engine.backend == "trtllm"
    assert (config.run.iterations, config.select.prompts) == (4, 5000)
    assert (config.candidates.samples, config.judge.votes) == (7, 11)
    for section in (config.candidates, config.judge):
        assert (section.sampling.temperature, section.sampling.top_p) == (0.8, 0.95)
    pairs = [resolve(config.pairs, iteration) for iteration in (1, 2, 3, 4)]
    assert [section.length_control for section in pairs] == [0, 0.32, 0.32, 0.4]
    meta_judged = [resolve(config.meta_judge, iteration).enabled for iteration in (1, 2, 3, 4)]
    assert meta_judged == [True, True, False, False]
    assert [section.judge_share > 0 for section in pairs] == meta_judged
    assert (config.train.beta, config.train.batch_size, config.train.optimizer.learning_rate) == (0.1, 32, 5e-6)
    longest = config.candidates.sampling.max_tokens + config.judge.sampling.max_tokens
    assert longest < config.engine.max_sequence_length <= config.megatron.max_sequence_length
