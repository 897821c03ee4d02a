"""The TensorRT-LLM engine against a strict double of the library: what it asks for, and what it makes of answers."""

import time
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.config import Sampling
from stages.engines.protocol import Completion, Request
from stages.engines.trtllm import TrtllmEngine
from stages.engines.trtllm_answers import submission_order
from tests.support.trtllm_engine import Open
from tests.support.trtllm_world import EOS, TURN_END, VERSIONS, RequestError, World, always, logprob_of

SAMPLED = Sampling(temperature=0.8, top_p=0.95, top_k=40, max_tokens=8)
WHOLE_MODEL = Sampling(max_tokens=8)
SAMPLERS = [
    *(("1.0.0", "TRTLLMSampler"), ("1.1.0", "TRTLLMSampler"), ("1.2.1", "TRTLLMSampler")),
    *(("1.2.0", "TorchSampler"), ("1.2.1", "TorchSampler"), ("1.3.0rc20", "TRTLLMSampler")),
    *(("1.3.0rc20", "TorchSampler"), ("1.3.0rc26", "TorchSampler")),
    *((version, "auto") for version in VERSIONS),
]
"""Releases, and the samplers of each that are sound."""


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


@pytest.mark.parametrize(("version", "sampler"), SAMPLERS)
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
        assert not params.detokenize, "the text is decoded here, as everywhere else"
        penalties = (params.repetition_penalty, params.presence_penalty, params.frequency_penalty)
        assert (*penalties, params.stop, params.min_p, params.guided_decoding) == (None,) * 6
    assert [prompt for prompt, _ in world.submitted] == [(5, 6), (5, 7), (5, 6), (5, 7)]


@pytest.mark.parametrize("version", VERSIONS)
def test_greedy_is_greedy_and_sampling_samples(engine: Open, version: str) -> None:
    with engine(World(version=version)) as it:
        assert answer(it, Sampling(temperature=0, max_tokens=8)).token_ids == [10, 11, EOS]
        assert answer(it).token_ids[:2] != [10, 11]


@pytest.mark.parametrize(("version", "sampler"), SAMPLERS)
@pytest.mark.parametrize("stop", [EOS, TURN_END])
def test_stopped_tokens_end_with_the_stop_token(engine: Open, version: str, sampler: str, stop: int) -> None:
    with engine(World(version=version, write=always(20, 21, stop, 22)), sampler=sampler) as it:
        completion = answer(it)
    assert (completion.token_ids, completion.finish_reason) == ([20, 21, stop], "stop")
    assert (completion.text, completion.error) == ("t20 t21", None)


@pytest.mark.parametrize("sampler", ["TorchSampler", "TRTLLMSampler"])
def test_immediate_stop_is_one_token(engine: Open, sampler: str) -> None:
    with engine(World(write=always(EOS)), sampler=sampler) as it:
        assert answer(it) == Completion("0-0", "", [EOS], "stop", cached=0.0)


def test_the_text_is_what_the_tokens_say_whatever_the_library_makes_of_them(engine: Open) -> None:
    with engine(World(write=always(20, 21, EOS), override={"text": "tidied"})) as it:
        completion = answer(it)
        assert completion.text == it.chat.decode([20, 21]) == "t20 t21"


def test_stop_id_as_last_allowed_token_is_a_stop(engine: Open) -> None:
    with engine(World(write=always(20, 21, TURN_END))) as it:
        assert answer(it, Sampling(temperature=0.8, max_tokens=3)).finish_reason == "stop"


def test_token_limit_gives_length(engine: Open) -> None:
    with engine(World(write=always(*range(20, 40)))) as it:
        completion = answer(it)
    assert (completion.token_ids, completion.finish_reason) == ([*range(20, 28)], "length")


@pytest.mark.parametrize("end", [EOS, TURN_END])
def test_logprobs_are_summed_over_all_tokens_at_temperature_one(engine: Open, end: int) -> None:
    with engine(World(write=always(20, 21, end))) as it:
        assert answer(it, WHOLE_MODEL).logprob == logprob_of(20) + logprob_of(21) + logprob_of(end)


def test_the_cpp_sampler_which_tells_no_logprob_of_the_end_id_is_not_asked(engine: Open) -> None:
    world = World(write=always(20, 21, EOS))
    with engine(world, sampler="TRTLLMSampler") as it:
        assert answer(it, WHOLE_MODEL).logprob is None
    assert world.submitted[0][1].logprobs is None


def test_logprobs_that_do_not_match_their_tokens_cost_one_completion(engine: Open) -> None:
    """TensorRT-LLM #9374: the library asserts where the result is read."""
    with engine(World(failures={(6,): AssertionError()})) as it:
        errors = {one.request_id: one.error for one in it.generate(votes((5,), (6,), (7,)), WHOLE_MODEL)}
    assert errors == {"0-0": None, "1-0": "AssertionError", "2-0": None}


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
        answers = {one.request_id: one for one in it.generate(votes((5,) * 56, (6,) * 57, ()), SAMPLED)}
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
        submit = it.llm.generate_async

        def generate_async(inputs: dict[str, list[int]], parameters: Any) -> Any:
            if inputs["prompt_token_ids"] == [6]:
                raise error
            return submit(inputs, parameters)

        monkeypatch.setattr(it.llm, "generate_async", generate_async)
        reasons = {one.request_id: one.error for one in it.generate(votes((5,), (6,), (7,)), SAMPLED)}
    assert reasons == {"0-0": None, "1-0": "too long", "2-0": None}


def test_requests_in_flight_are_bounded_and_none_is_lost(engine: Open) -> None:
    """D32: batches were of fixed size, and each waited for its longest member."""
    requests = votes(*[(5, token) for token in range(30)], count=3)
    gate = Event()
    world = World(held={request.prompt_token_ids: gate for request in requests})
    ids: list[str] = []
    with engine(world, max_batch_size=4) as it:
        reader = Thread(target=lambda: ids.extend(one.request_id for one in it.generate(requests, SAMPLED)))
        reader.start()
        while len(world.submitted) < 8:
            time.sleep(0.001)
        time.sleep(0.05)
        assert len(world.submitted) == 8, "two batches of four; another one only for one that came back"
        gate.set()
        reader.join()
    assert world.peak <= 8
    assert len(ids) == len(set(ids)) == 90


def test_what_the_library_found_in_its_cache_is_told(engine: Open) -> None:
    with engine(World(caches=True)) as it:
        found = {one.request_id: one.cached for one in it.generate(votes((5, 6), count=3), SAMPLED)}
    assert found == {"0-0": 0.0, "0-1": 1.0, "0-2": 1.0}


def test_completions_come_as_they_finish(engine: Open) -> None:
    gates = {(5,): Event(), (6,): Event()}
    with engine(World(held=gates)) as it:
        completions = it.generate(votes((5,), (6,), (7,)), SAMPLED)
        order = [next(completions).request_id]
        gates[(6,)].set()
        order.append(next(completions).request_id)
        gates[(5,)].set()
        order += [one.request_id for one in completions]
    assert order == ["2-0", "1-0", "0-0"]


prompts = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=40)


@given(prompts, st.integers(1, 12))
def test_submission_order_shares_prefixes(drawn: list[tuple[int, ...]], batch: int) -> None:
    """In each window of distinct prompts: one sample of each in sorted order, then the rest, prompt by prompt.

    A window's samples fill a batch. D32: votes on the same response did not share its prefix.
    """
    requests = [Request(str(index), prompt, index) for index, prompt in enumerate(drawn)]
    ordered = list(submission_order(requests, batch))
    window = max(1, batch * len(set(drawn)) // max(1, len(drawn)))
    assert sorted(ordered, key=lambda one: one.seed) == requests
    distinct = sorted(set(drawn))
    for start in range(0, len(distinct), window):
        group = distinct[start : start + window]
        others = [prompt for prompt in group for _ in range(drawn.count(prompt) - 1)]
        size = len(group) + len(others)
        assert [one.prompt_token_ids for one in ordered[:size]] == group + others
        ordered = ordered[size:]
