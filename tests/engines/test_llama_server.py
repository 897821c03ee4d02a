"""The `openai` engine against llama.cpp's own server: a real process, with all that ends one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import httpx
import pytest
from polars.testing import assert_frame_equal
from tenacity import wait_none

from stages.config import EngineSettings, Sampling, ServerSettings
from stages.contracts.artifacts import read
from stages.contracts.errors import StageError
from stages.engines import http_client, open_engine
from stages.engines.openai import OpenAiEngine
from stages.engines.protocol import Completion, Request
from stages.tables import CANDIDATES
from tests.support.own_servers import LLAMA, servers, wait_for
from tests.support.protocol_server import Body, ProtocolServer
from tests.support.records import turns, write_prompts

REQUESTS = [
    Request(f"r{prompt}-{vote}", (2, 70 + prompt, 71, 72, 3), 10 * prompt + vote)
    for prompt in range(4)
    for vote in range(3)
]
GREEDY = Sampling(temperature=0, max_tokens=30)


def settings(**server: object) -> EngineSettings:
    given = {"kind": "llamacpp", "model": "tiny", **server}
    return EngineSettings(backend="openai", max_sequence_length=256, device="cpu", server=ServerSettings(**given))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def url(tiny_model_dir: Path) -> Iterator[str]:
    with OpenAiEngine(tiny_model_dir, settings(command=LLAMA)) as engine:
        yield engine.url


@pytest.fixture(scope="module")
def reference(tiny_model_dir: Path) -> dict[str, Completion]:
    torch = EngineSettings(max_sequence_length=256, device="cpu", dtype="float32")
    return completions(tiny_model_dir, torch)


def completions(model: Path, engine: EngineSettings, sampling: Sampling = GREEDY) -> dict[str, Completion]:
    with open_engine(model, engine) as opened:
        found = list(opened.generate(REQUESTS, sampling))
    assert len(found) == len(REQUESTS)
    return {one.request_id: one for one in found}


def said(found: dict[str, Completion]) -> dict[str, tuple[str, list[int], str]]:
    return {name: (one.text, one.token_ids, one.finish_reason) for name, one in found.items()}


def test_the_same_rows_as_the_embedded_engine(tiny_model_dir: Path, url: str, reference: dict[str, Completion]) -> None:
    assert said(completions(tiny_model_dir, settings(url=url))) == said(reference)


def test_samples_end_with_a_stop_token_or_at_their_limit_and_differ(tiny_model_dir: Path, url: str) -> None:
    found = completions(tiny_model_dir, settings(url=url), Sampling(max_tokens=100)).values()
    assert {one.finish_reason for one in found} == {"stop", "length"}
    for one in found:
        assert (one.token_ids[-1] == 4) == (one.finish_reason == "stop")
        assert one.finish_reason == "stop" or len(one.token_ids) == 100
    assert len({tuple(one.token_ids) for one in found}) == len(REQUESTS)


def test_nothing_is_lost_behind_a_line_that_fails(
    tiny_model_dir: Path, url: str, reference: dict[str, Completion], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_client, "WAIT_SECONDS", wait_none())

    def forward(body: Body) -> Body:
        return dict(httpx.post(f"{url}/completion", json=body, timeout=60).json())

    faults = cycle(["429", None, "reset", "truncated", None, "malformed", "503"])
    with ProtocolServer(forward, faults) as line:
        found = completions(tiny_model_dir, settings(url=line.url, retries=30))
    assert said(found) == said(reference)


def test_a_server_that_is_killed_ends_the_stage_and_leaves_nothing(tiny_model_dir: Path) -> None:
    many = [Request(f"r{number}", (2, 70, 3), number) for number in range(2000)]
    with OpenAiEngine(tiny_model_dir, settings(command=LLAMA, retries=1)) as engine:
        answers = engine.generate(many, Sampling(max_tokens=100))
        next(answers)
        (server,) = servers(tiny_model_dir, engine.url)
        os.kill(server, signal.SIGKILL)
        with pytest.raises(StageError, match="the server has ended"):
            list(answers)
    assert not servers(tiny_model_dir, engine.url)


def test_a_proxy_for_the_world_is_none_for_a_server_of_ones_own(
    tiny_model_dir: Path, reference: dict[str, Completion], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert said(completions(tiny_model_dir, settings(command=LLAMA))) == said(reference)


def test_a_command_that_starts_no_server_is_said_at_once(tiny_model_dir: Path) -> None:
    with (
        pytest.raises(StageError, match="ended before it was ready"),
        open_engine(tiny_model_dir, settings(command="false")),
    ):
        pass


@pytest.mark.slow
def test_a_killed_stage_takes_its_server_along_and_a_rerun_goes_on(tiny_model_dir: Path, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", [turns(f"Say {number}") for number in range(120)])

    def stage(output: Path) -> subprocess.Popen[bytes]:
        words = {
            "model": tiny_model_dir, "prompts": prompts, "output": output, "model-inputs": tmp_path / "inputs.parquet",
            "samples": 4, "max-cut-share": 1, "sampling.temperature": 0, "sampling.max-tokens": 150,
            "engine.max-sequence-length": 256, "engine.backend": "openai", "engine.server.kind": "llamacpp",
            "engine.server.model": "tiny", "engine.server.command": LLAMA,
        }  # fmt: skip
        flags = [word for name, value in words.items() for word in (f"--{name}", str(value))]
        return subprocess.Popen([sys.executable, "-m", "stages.candidates", *flags])

    others = set(servers(tiny_model_dir))
    output, undisturbed = tmp_path / "killed.parquet", tmp_path / "whole.parquet"
    killed = stage(output)
    wait_for(lambda: bool(list(tmp_path.glob(".killed.parquet.journal-*/part-*.parquet"))))
    killed.kill()
    killed.wait()
    wait_for(lambda: set(servers(tiny_model_dir)) == others)
    assert not output.exists()
    assert stage(output).wait() == 0
    assert stage(undisturbed).wait() == 0
    key = ["candidate_id"]
    rows, whole = (read(path, CANDIDATES).sort(key) for path in (output, undisturbed))
    assert rows.height == 480
    # What else is in the batch moves the last digits of a likelihood.
    assert_frame_equal(rows, whole, abs_tol=1e-4)
    assert set(servers(tiny_model_dir)) == others
