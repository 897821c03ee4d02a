"""The `openai` engine against a server on loopback: what it asks, what it makes of answers, and of none."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from tenacity import wait_none

from stages.config import EngineSettings, Sampling, ServerSettings
from stages.contracts.errors import StageError
from stages.engines import http_client
from stages.engines.dialects import DIALECTS, OPTIONS, Answer
from stages.engines.openai import OpenAiEngine, completion
from stages.engines.protocol import Completion, Request
from stages.engines.server_probe import Findings
from stages.prompting.chat import ChatTokenizer
from tests.support.protocol_server import FAULTS, Body, ProtocolServer, vllm_like
from tests.support.tiny_model import write_tokenizer

STOP = 4
REQUESTS = [Request(f"r{number}", (2, 70 + number % 5, 3), 1000 + number) for number in range(40)]
SAMPLING = Sampling(max_tokens=6)
PROBES = 2 + 3 * 16
"""Requests before the first one that was asked for."""


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "WAIT_SECONDS", wait_none())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_tokenizer(tmp_path)
    return tmp_path


def settings(server: ProtocolServer, **more: Any) -> EngineSettings:
    given = {"kind": "vllm", "url": server.url, "model": "served", "concurrency": 8, "retries": 3, **more}
    return EngineSettings(backend="openai", max_sequence_length=64, server=ServerSettings(**given))


def completions(model: Path, server: ProtocolServer, sampling: Sampling = SAMPLING, /, **more: Any) -> list[Completion]:
    with OpenAiEngine(model, settings(server, **more)) as engine:
        return list(engine.generate(REQUESTS, sampling))


def after_the_probe(faults: Iterator[str | None]) -> Iterator[str | None]:
    yield from [None] * PROBES
    yield from faults


def test_each_request_has_one_completion_with_the_tokens_that_its_seed_gives(model: Path) -> None:
    with ProtocolServer() as server:
        found = {one.request_id: one for one in completions(model, server)}
    assert found.keys() == {request.request_id for request in REQUESTS}
    for request in REQUESTS:
        said = vllm_like({"seed": request.seed, "max_tokens": 6, "temperature": 1.0})["choices"][0]["token_ids"]
        assert found[request.request_id].token_ids == said
        assert found[request.request_id].text == ChatTokenizer(model).decode(said)
        assert found[request.request_id].logprob == -12.0
    assert {tuple(body["prompt"]) for body in server.asked[PROBES:]} == {(2, token, 3) for token in range(70, 75)}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failure_is_tried_again_and_nothing_is_lost_or_doubled(model: Path, fault: str) -> None:
    """Every other request fails at first."""
    with ProtocolServer(faults=after_the_probe(cycle([fault, None]))) as server:
        found = completions(model, server, timeout_seconds=0.5 if fault == "slow" else 30.0, retries=20)
    assert Counter(one.request_id for one in found) == Counter(request.request_id for request in REQUESTS)
    assert {one.finish_reason for one in found} == {"length"}
    if fault != "slow":  # a server may well answer a request after its client has left
        assert all(server.answered[request.seed] == 1 for request in REQUESTS)


def test_what_fails_for_good_is_an_error_of_its_request_alone(model: Path) -> None:
    def reply(body: Body) -> Body | int:
        return {1003: 400, 1004: 503}.get(body["seed"], vllm_like(body))

    with ProtocolServer(reply) as server:
        found = {one.request_id: one for one in completions(model, server)}
    errors = {name: one.error for name, one in found.items() if one.finish_reason == "error"}
    assert errors.keys() == {"r3", "r4"}
    assert str(errors["r3"]).startswith("refused by the server: HTTP status 400")
    assert str(errors["r4"]).startswith("no answer after 4 tries: HTTP status 503")
    assert [body["seed"] for body in server.asked].count(1003) == 1
    assert [body["seed"] for body in server.asked].count(1004) == 4


def test_no_more_requests_are_in_flight_than_allowed_and_few_are_asked_before_they_are_wanted(model: Path) -> None:
    with ProtocolServer() as server, OpenAiEngine(model, settings(server, concurrency=3)) as engine:
        answers = engine.generate(REQUESTS, SAMPLING)
        got = list(islice(answers, 5))
        assert len(server.asked) - PROBES <= 5 + 3
        answers.close()  # type: ignore[attr-defined]
    assert len(got) == 5


def test_what_does_not_fit_is_refused_here_and_what_was_cut_there_is_no_answer(model: Path) -> None:
    def reply(body: Body) -> Body:
        said = vllm_like(body)
        said["choices"][0]["token_ids"] = said["choices"][0]["token_ids"][:4]
        return said

    with ProtocolServer(reply) as server, OpenAiEngine(model, settings(server)) as engine:
        asked = len(server.asked)
        (long,) = engine.generate([Request("long", tuple(range(5, 65)), 1)], SAMPLING)
        assert len(server.asked) == asked
        (cut,) = engine.generate(REQUESTS[:1], SAMPLING)
    assert "exceed engine.max_sequence_length (64)" in str(long.error)
    assert cut.error == "cut by the server after 4 of 6 tokens"


@pytest.mark.parametrize(
    ("defect", "found"),
    [
        ({}, Findings(ids=True, seeds=True, logprobs=True)),
        ({"seeds": False}, Findings(ids=True, seeds=False, logprobs=True)),
        ({"amid_others": False}, Findings(ids=True, seeds=False, logprobs=True)),
        ({"scaled": True}, Findings(ids=True, seeds=True, logprobs=False)),
        ({"ids": False}, Findings(ids=False, seeds=False, logprobs=False)),
    ],
)
def test_what_a_server_does_is_tried(model: Path, defect: dict[str, bool], found: Findings) -> None:
    with (
        ProtocolServer(partial(vllm_like, **defect)) as server,
        OpenAiEngine(model, settings(server, allow_retokenised=True)) as engine,
    ):
        assert engine.found == found
        assert engine.seeds_honoured == found.seeds


def test_log_probabilities_of_another_temperature_are_none(model: Path) -> None:
    with ProtocolServer(partial(vllm_like, scaled=True)) as server:
        assert {one.logprob for one in completions(model, server)} == {None}


def test_text_without_token_ids_is_refused_unless_allowed(model: Path) -> None:
    with ProtocolServer(partial(vllm_like, ids=False)) as server:
        with pytest.raises(StageError, match=r"no token ids.*engine\.server\.allow_retokenised"):
            completions(model, server)
        found = completions(model, server, allow_retokenised=True)
    assert {tuple(one.token_ids) for one in found} == {tuple(ChatTokenizer(model).encode_text("digits"))}


def test_another_model_than_the_one_to_ask_is_refused(model: Path) -> None:
    refused = pytest.raises(StageError, match=r"serves served, not .*engine\.server\.model")
    with ProtocolServer(models=[{"id": "served", "root": "/elsewhere"}]) as server, refused:
        completions(model, server, model=None)
    with ProtocolServer(models=[{"id": "other"}, {"id": "mine", "root": str(model)}]) as server:
        completions(model, server, model=None)
    assert {body["model"] for body in server.asked} == {"mine"}


def test_the_key_goes_to_the_server_and_is_told_to_nobody(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-very-secret")

    def reply(body: Body) -> Body | int:
        return 400 if body["seed"] == 1003 else vllm_like(body)

    with ProtocolServer(reply) as server:
        found = completions(model, server, key_variable="MY_KEY")
    assert server.keys == {"Bearer sk-very-secret"}
    (error,) = [str(one.error) for one in found if one.error]
    assert "***" in error
    with ProtocolServer(lambda _: 401) as server, pytest.raises(StageError, match=r"MY_KEY .*the right one") as refused:
        completions(model, server, key_variable="MY_KEY")
    said = capfd.readouterr()
    assert "sk-very-secret" not in f"{found} {refused.value} {said.out} {said.err}"


def test_nobody_there_is_said_in_time(model: Path) -> None:
    with ProtocolServer() as server:
        gone = settings(server, start_seconds=0.3)
    with pytest.raises(StageError, match=r"no server was ready at .* within 0\.3 seconds"), OpenAiEngine(model, gone):
        pass


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer("", [21, STOP], "stop", [-1.0, -2.0]), ("stop", [21, STOP], -3.0)),
        (Answer("", [21], "stop", [-1.0]), ("stop", [21, STOP], None)),
        (Answer("", [21], "stop", None, stopped_at=3), ("stop", [21, 3], None)),
        (Answer("", [21, 22, STOP], "length", None), ("stop", [21, 22, STOP], None)),
        (Answer("", [21, 22, 23], "length", [-1.0, -1.0, -1.0]), ("length", [21, 22, 23], -3.0)),
        (Answer("", [21, 22, 23], "length", [-1.0, -1.0]), ("length", [21, 22, 23], None)),
        (Answer("", [21], "abort", None), ("error", [], None)),
        (Answer("", [], "stop", None), ("stop", [STOP], None)),
    ],
)
def test_tokens_end_with_the_stop_token_of_what_ended_by_itself(
    model: Path, answer: Answer, expected: tuple[str, list[int], float | None]
) -> None:
    found = completion(REQUESTS[0], answer, Sampling(max_tokens=3), ChatTokenizer(model), logprobs_at_one=True)
    assert (found.finish_reason, found.token_ids, found.logprob) == expected


def test_a_stop_text_ends_the_text_and_keeps_the_tokens(model: Path) -> None:
    chat = ChatTokenizer(model)
    ids = chat.encode_text("hello world")
    found = completion(REQUESTS[0], Answer("", ids, "stop", None), Sampling(max_tokens=30, stop=[" w"]), chat, True)
    assert (found.text, found.token_ids, found.finish_reason) == ("hello", ids, "stop")


@pytest.mark.parametrize("kind", DIALECTS)
def test_every_setting_that_a_server_honours_is_sent(kind: str) -> None:
    """What is at its default, too: some servers fill what is left out from files of the model."""
    dialect = DIALECTS[kind]
    plain = dialect.body(REQUESTS[0], SAMPLING, [3, 4])
    changed = Sampling(
        temperature=0.5, top_p=0.9, top_k=7, min_p=0.1, repetition_penalty=1.5, stop=["END"], max_tokens=9
    )
    body = dialect.body(REQUESTS[0], changed, [3, 4])
    sent = {"temperature": 0.5, "top_p": 0.9, "prompt": [2, 70, 3], "seed": 1000}
    names = {"top_k": {"top_k": 7}, "min_p": {"min_p": 0.1}, "stop": {"stop": ["END"]}}
    names["repetition_penalty"] = {"repeat_penalty" if kind == "llamacpp" else "repetition_penalty": 1.5}
    for option in OPTIONS & dialect.honoured:
        sent |= names[option]
    assert body | sent == body
    assert body["n_predict" if kind == "llamacpp" else "max_tokens"] == 9
    assert sent.keys() - {"stop"} <= plain.keys()
    assert not OPTIONS - dialect.honoured & body.keys() - {"stop"}
    assert kind in ("llamacpp", "openai") or body["stop_token_ids"] == [3, 4]


@pytest.mark.parametrize(
    ("usage", "share"),
    [
        ({"prompt_tokens": 8, "prompt_tokens_details": {"cached_tokens": 6}}, 0.75),
        ({"prompt_tokens": 8, "prompt_tokens_details": None}, None),
        (None, None),
    ],
)
def test_what_a_server_found_in_its_cache_is_told(usage: Body | None, share: float | None) -> None:
    said = vllm_like({"seed": 1, "max_tokens": 6, "temperature": 1.0}) | {"usage": usage}
    assert DIALECTS["vllm"].read(said).cached == share


def test_seeds_are_sent_as_each_server_takes_them() -> None:
    large = Request("r", (2,), 2**63 + 5)
    assert DIALECTS["vllm"].body(large, SAMPLING, [])["seed"] == 5
    assert DIALECTS["llamacpp"].body(large, SAMPLING, [])["seed"] == 5
