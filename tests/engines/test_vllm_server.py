"""The `openai` engine against a real vLLM on the CPU (`make test-vllm`): the same rows, seeds, and no process left."""

import os
import re
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stages.config import EngineSettings, Sampling, ServerSettings
from stages.contracts.errors import StageError
from stages.engines import open_engine
from stages.engines.openai import OpenAiEngine
from stages.engines.protocol import Completion, Engine, Request
from tests.support.tiny_model import write_llama

PYTHON = os.environ.get("META_REWARDING_VLLM_PYTHON", "")
pytestmark = pytest.mark.skipif(
    not PYTHON, reason="META_REWARDING_VLLM_PYTHON names no Python that has vLLM; `make test-vllm` makes one"
)
# Without the thread binding it uses one of two cores; a seeded prompt that chunked prefill splits ends its CPU engine.
COMMAND = (
    f"env VLLM_CPU_OMP_THREADS_BIND=0-1 VLLM_CPU_KVCACHE_SPACE=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 "
    f"{shlex.quote(PYTHON)} -m vllm.entrypoints.openai.api_server --model {{model}} --host {{host}} --port {{port}} "
    "--dtype float32 --max-model-len 256 --max-num-batched-tokens 4096 --enforce-eager --no-enable-chunked-prefill"
)
REQUESTS = [
    Request(f"r{prompt}-{vote}", (2, *range(70, 72 + 9 * prompt), 3), 10 * prompt + vote)
    for prompt in range(5)
    for vote in range(4)
]
GREEDY = Sampling(temperature=0, max_tokens=40)
SAMPLED = Sampling(temperature=0.9, top_p=0.95, max_tokens=40)


def settings(**server: object) -> EngineSettings:
    given = {"kind": "vllm", "start_seconds": 300, **server}
    return EngineSettings(backend="openai", max_sequence_length=256, device="cpu", server=ServerSettings(**given))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with two heads of 32 instead of four of 16, for which vLLM's attention on the CPU has no code."""
    return write_llama(tmp_path_factory.mktemp("vllm_model"), heads=2, groups=1)


@pytest.fixture(scope="module")
def vllm(model: Path) -> Iterator[OpenAiEngine]:
    with OpenAiEngine(model, settings(command=COMMAND)) as engine:
        yield engine


@pytest.fixture(scope="module")
def torch(model: Path) -> Iterator[Engine]:
    with open_engine(model, EngineSettings(max_sequence_length=256, device="cpu", dtype="float32")) as engine:
        yield engine


def completions(engine: Engine, sampling: Sampling, requests: list[Request] = REQUESTS) -> dict[str, Completion]:
    found = list(engine.generate(requests, sampling))
    assert len(found) == len(requests)
    return {one.request_id: one for one in found}


def said(found: dict[str, Completion]) -> dict[str, tuple[str, list[int], str]]:
    return {name: (one.text, one.token_ids, one.finish_reason) for name, one in found.items()}


def test_the_same_rows_as_the_embedded_engine(vllm: OpenAiEngine, torch: Engine) -> None:
    ours, theirs = completions(torch, GREEDY), completions(vllm, GREEDY)
    assert said(theirs) == said(ours)
    for name, one in ours.items():
        assert theirs[name].logprob == pytest.approx(one.logprob, abs=1e-3)


def test_what_was_tried_at_the_start(vllm: OpenAiEngine) -> None:
    assert vllm.exact_tokens
    assert vllm.seeds_honoured
    assert vllm.found.logprobs


def test_a_seed_decides_its_sample_whatever_it_is_asked_with(vllm: OpenAiEngine) -> None:
    together = said(completions(vllm, SAMPLED))
    assert said(completions(vllm, SAMPLED)) == together
    assert said(completions(vllm, SAMPLED, REQUESTS[7:8])) == {"r1-3": together["r1-3"]}
    assert len({tuple(tokens) for _, tokens, _ in together.values()}) == len(REQUESTS)


def test_samples_end_with_a_stop_token_or_at_their_limit(vllm: OpenAiEngine) -> None:
    found = completions(vllm, Sampling(max_tokens=100)).values()
    assert {one.finish_reason for one in found} == {"stop", "length"}
    for one in found:
        assert (one.token_ids[-1] == 4) == (one.finish_reason == "stop")
        assert one.finish_reason == "stop" or len(one.token_ids) == 100


def test_likelihoods_are_those_of_the_embedded_engine_at_any_temperature(vllm: OpenAiEngine, torch: Engine) -> None:
    """One token of each of many samples: those that both drew have the same likelihood."""
    many = [Request(f"s{seed}", REQUESTS[0].prompt_token_ids, seed) for seed in range(60)]
    for temperature in (0.5, 1.0):
        sampling = Sampling(temperature=temperature, max_tokens=1)
        ours, theirs = (
            {one.token_ids[0]: one.logprob for one in completions(engine, sampling, many).values()}
            for engine in (torch, vllm)
        )
        common = ours.keys() & theirs.keys()
        assert len(common) > 3
        assert [theirs[token] for token in common] == pytest.approx([ours[token] for token in common], abs=1e-4)


def test_a_stop_text_ends_a_sample_as_it_does_in_the_embedded_engine(vllm: OpenAiEngine, torch: Engine) -> None:
    whole = said(completions(torch, GREEDY))
    (first, *_) = re.findall("[A-Za-z]{2}", " ".join(text[5:] for text, _, _ in whole.values()))
    sampling = GREEDY.model_copy(update={"stop": [first]})
    ours, theirs = said(completions(torch, sampling)), said(completions(vllm, sampling))
    assert theirs == ours != whole


def test_a_prompt_that_is_too_long_is_refused_by_us(vllm: OpenAiEngine, torch: Engine) -> None:
    long = [Request("long", (2, *([70] * 250), 3), 1)]
    ours, theirs = completions(torch, GREEDY, long), completions(vllm, GREEDY, long)
    assert theirs == ours
    assert theirs["long"].refused
    assert "exceed engine.max_sequence_length" in (theirs["long"].error or "")


def test_a_front_that_is_killed_leaves_no_engine_behind(model: Path) -> None:
    """vLLM's engine core and worker outlive their front; the guard ends them."""
    many = [Request(f"r{number}", (2, 70, 3), number) for number in range(2000)]
    with OpenAiEngine(model, settings(command=COMMAND, retries=1)) as engine:
        answers = engine.generate(many, Sampling(max_tokens=100))
        next(answers)
        front = front_of(model, engine.url)
        assert len(group(front)) > 1
        os.kill(front, signal.SIGKILL)
        with pytest.raises(StageError, match="the server has ended"):
            list(answers)
        until = time.monotonic() + 30
        while group(front) and time.monotonic() < until:
            time.sleep(0.1)
        assert not group(front)


def front_of(model: Path, url: str) -> int:
    """The process that answers HTTP; it leads the server's group."""
    port = url.rpartition(":")[2]
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            # The guard's words have the server's among them.
            if words[1:3] == ["-m", "vllm.entrypoints.openai.api_server"] and str(model) in words and port in words:
                return int(folder.name)
    raise AssertionError("no front")


def group(leader: int) -> list[int]:
    """Processes of a group that are not dead already."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, number = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(number) == leader and state != "Z":
                found.append(int(folder.name))
    return found
