"""What the TensorRT-LLM engine is constructed with, and what of checkpoint and installation is refused."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.config import EngineSettings, resolve
from stages.config.whole import load
from stages.contracts.errors import StageError
from stages.engines import open_engine
from stages.engines.trtllm import TrtllmEngine, stop_token_ids
from tests.support.trtllm_double import EOS, TURN_END, VERSIONS, World, install
from tests.support.trtllm_engine import Open


def settings() -> EngineSettings:
    return EngineSettings(backend="trtllm")


@pytest.mark.parametrize("version", VERSIONS)
def test_construction_says_everything_explicitly(engine: Open, model: Path, version: str) -> None:
    world = World(version=version)
    with engine(world, tensor_parallel_size=2, max_num_tokens=4096, max_batch_size=32, block_reuse=False):
        pass
    (arguments,) = world.constructed
    kv_cache = arguments.pop("kv_cache_config")
    switch = {"enable_trtllm_sampler": True} if version == "1.0.0" else {"sampler_type": "auto"}
    assert arguments == {
        "model": str(model),
        "dtype": "auto",
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "max_seq_len": 64,
        "max_num_tokens": 4096,
        "max_batch_size": 32,
        "enable_chunked_prefill": True,
        **switch,
    }
    assert (kv_cache.enable_block_reuse, kv_cache.free_gpu_memory_fraction) == (False, 0.9)
    assert kv_cache.host_cache_size is None
    assert world.shutdowns == 1


def test_stop_tokens_are_those_of_template_tokenizer_and_checkpoint(model: Path) -> None:
    assert stop_token_ids(model) == [EOS, TURN_END]
    (model / "generation_config.json").unlink()
    assert stop_token_ids(model) == [EOS]
    (model / "tokenizer.json").unlink()
    with pytest.raises(StageError, match=r"tokenizer\.json: no such file"):
        stop_token_ids(model)


def test_missing_library_names_the_remedy(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_llm", None)
    with pytest.raises(StageError, match="install the 'trtllm' extra"), open_engine(model, settings()):
        pass


@pytest.mark.parametrize("version", ["0.20.0", "1.3.0", "unknown"])
def test_unknown_version_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    module = install(monkeypatch, World())
    module.__version__ = version
    with pytest.raises(StageError, match=f"tensorrt_llm {version} is installed"), open_engine(model, settings()):
        pass


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
