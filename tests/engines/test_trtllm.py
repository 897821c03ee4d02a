"""The TensorRT-LLM engine against a strict double of the library: what it asks for, and what it makes of answers."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stages.config import EngineSettings, Sampling, resolve
from stages.config.whole import load
from stages.contracts.errors import StageError
from stages.engines import open_engine
from stages.engines.protocol import Completion, Request
from stages.engines.trtllm import TrtllmEngine, stop_token_ids, submission_order
from tests.support.trtllm_double import EOS, TURN_END, RequestError, World, always, checkpoint, install, logprob_of

VERSIONS = ["1.0.0", "1.1.0", "1.2.0", "1.2.1"]
SAMPLED = Sampling(temperature=0.8, top_p=0.95, top_k=40, max_tokens=8)
WHOLE_MODEL = Sampling(max_tokens=8)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return checkpoint(tmp_path)


Open = Callable[..., Any]


@pytest.fixture
def engine(model: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """`engine(world, **trtllm settings)` opens the engine on the double."""

    @contextmanager
    def opened(world: World, max_sequence_length: int = 64, **trtllm: Any) -> Iterator[TrtllmEngine]:
        install(monkeypatch, world)
        settings = EngineSettings(backend="trtllm", max_sequence_length=max_sequence_length, trtllm=trtllm)
        with open_engine(model, settings) as it:
            assert isinstance(it, TrtllmEngine)
            yield it

    return opened


def votes(*prompts: tuple[int, ...], count: int = 1) -> list[Request]:
    """`count` requests per prompt, with distinct ids and seeds."""
    return [
        Request(f"{index}-{vote}", prompt, seed=100 * index + vote)
        for index, prompt in enumerate(prompts)
        for vote in range(count)
    ]


def answer(engine: TrtllmEngine, sampling: Sampling = SAMPLED) -> Completion:
    """The completion of one request."""
    (completion,) = engine.generate(votes((5, 6, 7)), sampling)
    return completion


# --- the engine ----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("sampler", ["auto", "TorchSampler", "TRTLLMSampler"])
def test_seeds_are_claimed_exactly_where_they_act(engine: Open, version: str, sampler: str) -> None:
    """Two engines and two orders: seeds are honoured if each request gets the same tokens in both."""
    drawn = []
    for order in (1, -1):
        with engine(World(version=version), sampler=sampler) as it:
            requests = votes((5, 6), count=6)[::order]
            completions = it.generate(requests, SAMPLED)
            drawn.append({one.request_id: one.token_ids for one in completions})
            claimed = it.seeds_honoured
    assert len({tuple(tokens) for tokens in drawn[0].values()}) == 6, "the six votes are different samples"
    assert (drawn[0] == drawn[1]) == claimed


@pytest.mark.parametrize("version", VERSIONS)
def test_parameters_are_explicit_and_fresh(engine: Open, version: str) -> None:
    world = World(version=version)
    with engine(world) as it:
        list(it.generate(votes((5, 6), (5, 7), count=2), SAMPLED))
    parameters = [params for _, params in world.submitted]
    assert len({id(params) for params in parameters}) == 4
    assert sorted(params.seed for params in parameters) == [0, 1, 100, 101]
    for params in parameters:
        assert (params.temperature, params.top_p, params.top_k, params.max_tokens) == (0.8, 0.95, 40, 8)
        assert (params.n, params.best_of) == (1, 1)
        assert params.end_id == EOS, "left unset, so that the library's set-up ran"
        assert set(params.stop_token_ids) == {EOS, TURN_END}
        penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
        assert (*penalties, params.stop, params.min_p, params.guided_decoding) == (None,) * 6
    assert [prompt for prompt, _ in world.submitted] == [(5, 6), (5, 7), (5, 6), (5, 7)]


@pytest.mark.parametrize("version", VERSIONS)
def test_greedy_is_greedy_and_sampling_samples(engine: Open, version: str) -> None:
    with engine(World(version=version)) as it:
        assert answer(it, Sampling(temperature=0, max_tokens=8)).token_ids == [10, 11, EOS]
        assert answer(it).token_ids[:2] != [10, 11]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("eos_in_output", [True, False])
@pytest.mark.parametrize("stop", [EOS, TURN_END])
def test_stopped_tokens_end_with_the_stop_token(engine: Open, version: str, eos_in_output: bool, stop: int) -> None:
    with engine(World(version=version, write=always(20, 21, stop, 22), eos_in_output=eos_in_output)) as it:
        completion = answer(it)
    assert (completion.token_ids, completion.finish_reason) == ([20, 21, stop], "stop")
    assert (completion.text, completion.error) == ("t20 t21", None)


def test_immediate_stop_is_one_token(engine: Open) -> None:
    with engine(World(write=always(EOS), eos_in_output=False)) as it:
        assert answer(it) == Completion("0-0", "", [EOS], "stop")


def test_stop_id_as_last_allowed_token_is_a_stop(engine: Open) -> None:
    with engine(World(write=always(20, 21, TURN_END))) as it:
        assert answer(it, Sampling(temperature=0.8, max_tokens=3)).finish_reason == "stop"


def test_token_limit_gives_length(engine: Open) -> None:
    with engine(World(write=always(*range(20, 40)))) as it:
        completion = answer(it)
    assert (completion.token_ids, completion.finish_reason) == ([*range(20, 28)], "length")


def test_logprobs_are_summed_over_all_tokens_at_temperature_one(engine: Open) -> None:
    with engine(World(write=always(20, 21, TURN_END))) as it:
        assert answer(it, WHOLE_MODEL).logprob == logprob_of(20) + logprob_of(21) + logprob_of(TURN_END)


@pytest.mark.parametrize("sampling", [SAMPLED, Sampling(temperature=0.8), Sampling(top_p=0.9), Sampling(top_k=5)])
def test_logprobs_are_not_claimed_for_a_changed_distribution(engine: Open, sampling: Sampling) -> None:
    world = World()
    with engine(world, max_sequence_length=1024) as it:
        assert answer(it, sampling).logprob is None
    assert world.submitted[0][1].logprobs is None


def test_logprob_is_unknown_when_a_sampled_token_has_none(engine: Open) -> None:
    with engine(World(write=always(20, 21, EOS), logprob_lacks={21})) as it:
        assert answer(it, WHOLE_MODEL).logprob is None
    shorter = [{20: None}]
    with engine(World(write=always(20, 21, EOS), override={"logprobs": shorter})) as it:
        assert answer(it, WHOLE_MODEL).logprob is None


def test_requests_that_do_not_fit_are_refused_before_submission(engine: Open) -> None:
    """Prompt plus answer may fill the 64 tokens exactly; the library would cut one more without a word.

    D5: prompts over the engine's limit passed, since another one was tested.
    """
    world = World(write=always(*[20] * 60))
    with engine(world) as it:
        fits, too_long, empty = it.generate(votes((5,) * 56, (6,) * 57, ()), SAMPLED)
        answers = {one.request_id: one for one in (fits, too_long, empty)}
    assert (answers["0-0"].finish_reason, len(answers["0-0"].token_ids)) == ("length", 8)
    assert (answers["1-0"].finish_reason, answers["1-0"].token_ids) == ("error", [])
    assert "57 tokens" in (answers["1-0"].error or "")
    assert "max_sequence_length (64)" in (answers["1-0"].error or "")
    assert answers["2-0"].error == "the prompt is empty"
    assert [len(prompt) for prompt, _ in world.submitted] == [56]


def test_an_answer_cut_below_the_asked_limit_is_an_error(engine: Open) -> None:
    with engine(World(override={"token_ids": [20, 21], "finish_reason": "length"})) as it:
        completion = answer(it)
    assert completion.finish_reason == "error"
    assert "2 of 8" in (completion.error or "")


@pytest.mark.parametrize("reason", ["cancelled", "timeout", None])
def test_other_ends_are_errors(engine: Open, reason: str | None) -> None:
    with engine(World(override={"finish_reason": reason})) as it:
        completion = answer(it)
    assert (completion.finish_reason, completion.token_ids) == ("error", [])
    assert repr(reason) in (completion.error or "")


@pytest.mark.parametrize("version", VERSIONS)
def test_an_error_of_one_request_costs_one_completion(engine: Open, version: str) -> None:
    with engine(World(version=version, failures={(6,): RequestError("bad request")})) as it:
        answers = {one.request_id: one for one in it.generate(votes((5,), (6,), (7,)), SAMPLED)}
    assert answers["1-0"] == Completion("1-0", "", [], "error", error="bad request")
    assert [answers[key].finish_reason for key in ("0-0", "2-0")] == ["stop", "stop"]


@pytest.mark.parametrize("error", [RequestError("too long"), ValueError("too long")])
def test_refusal_at_submission_costs_one_completion(
    engine: Open, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    with engine(World()) as it:
        submit = it._llm.generate_async

        def generate_async(inputs: dict[str, list[int]], parameters: Any) -> Any:
            if inputs["prompt_token_ids"] == [6]:
                raise error
            return submit(inputs, parameters)

        monkeypatch.setattr(it._llm, "generate_async", generate_async)
        reasons = {one.request_id: one.error for one in it.generate(votes((5,), (6,), (7,)), SAMPLED)}
    assert reasons == {"0-0": None, "1-0": "too long", "2-0": None}


def test_a_dead_engine_ends_the_stage(engine: Open) -> None:
    world = World(failures={(6,): MemoryError("CUDA out of memory")})
    with pytest.raises(StageError, match=r"stopped working.*CUDA out of memory"), engine(world) as it:
        list(it.generate(votes((5,), (6,), (7,)), SAMPLED))
    with engine(World()) as it:
        it._llm.shutdown()
        with pytest.raises(StageError, match="LLM is shutting down"):
            list(it.generate(votes((5,)), SAMPLED))


def test_requests_in_flight_are_bounded_and_none_is_lost(engine: Open) -> None:
    """D32: batches were of fixed size, and each waited for its longest member."""
    world = World()
    requests = votes(*[(5, token) for token in range(30)], count=3)
    with engine(world, max_batch_size=4) as it:
        completions = it.generate(requests, SAMPLED)
        next(completions)
        assert len(world.submitted) == 16, "four batches of four, then the oldest is collected"
        ids = [one.request_id for one in completions]
    assert world.peak == 16
    assert len(ids) == len(set(ids)) == 89


prompts = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40)


@given(prompts, st.integers(1, 5))
def test_submission_order_shares_prefixes(drawn: list[tuple[int, ...]], window: int) -> None:
    """In each window of distinct prompts: one sample of each in sorted order, then the rest, prompt by prompt.

    D32: votes on the same response did not share its prefix.
    """
    requests = [Request(str(index), prompt, index) for index, prompt in enumerate(drawn)]
    ordered = list(submission_order(requests, window))
    assert sorted(ordered, key=lambda one: one.seed) == requests
    distinct = sorted(set(drawn))
    for start in range(0, len(distinct), window):
        group = distinct[start : start + window]
        others = [prompt for prompt in group for _ in range(drawn.count(prompt) - 1)]
        size = len(group) + len(others)
        assert [one.prompt_token_ids for one in ordered[:size]] == group + others
        ordered = ordered[size:]


# --- the checkpoint and the installation -----------------------------------------------------------------------------


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


def settings() -> EngineSettings:
    return EngineSettings(backend="trtllm")


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
