"""The embedded engine: the model's own distribution, whatever shares the batch."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaForCausalLM, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from stages.config import EngineSettings, Sampling
from stages.contracts.errors import StageError
from stages.engines.protocol import Completion, Request
from stages.engines.sampling import draw, invert, probabilities, uniforms
from stages.engines.torch import TorchEngine, batches, moves
from tests.support.tiny_model import write_tokenizer

SETTINGS = EngineSettings(max_sequence_length=64, batch_tokens=4096, device="cpu")
STOP = 4


def requests(prompts: int = 6, samples: int = 3) -> list[Request]:
    rng = random.Random(0)
    tokens = [tuple(rng.randrange(5, 320) for _ in range(rng.randrange(1, 24))) for _ in range(prompts)]
    return [Request(f"{p}-{s}", tokens[p], 1000 * p + s) for p in range(prompts) for s in range(samples)]


def complete(
    folder: Path, asked: list[Request], sampling: Sampling, settings: EngineSettings = SETTINGS
) -> dict[str, Completion]:
    with TorchEngine(folder, settings) as engine:
        found = list(engine.generate(asked, sampling))
    assert len(found) == len(asked)
    return {completion.request_id: completion for completion in found}


def said(completion: Completion) -> tuple[str, list[int], str]:
    return completion.text, completion.token_ids, completion.finish_reason


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def stopping_dir(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, with so many stop tokens that samples end at very different lengths."""
    folder = tmp_path_factory.mktemp("stopping") / "model"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": {[STOP, *range(300, 320)]}}}')
    return folder


def test_greedy_equals_the_library(tiny_model_dir: Path, model: LlamaForCausalLM) -> None:
    found = complete(tiny_model_dir, requests(samples=1), Sampling(temperature=0, max_tokens=20))
    for request in requests(samples=1):
        ids = torch.tensor([request.prompt_token_ids])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20)
        assert found[request.request_id].token_ids == expected[0, ids.shape[1] :].tolist()


def test_logprob_is_the_models_own_at_temperature_one(stopping_dir: Path, model: LlamaForCausalLM) -> None:
    found = complete(stopping_dir, requests(), Sampling(temperature=0.5, top_k=50, max_tokens=12))
    for request in requests():
        answer = found[request.request_id].token_ids
        ids = torch.tensor([[*request.prompt_token_ids, *answer]])
        logprobs = model(ids).logits[0].double().log_softmax(-1)
        expected = sum(logprobs[len(request.prompt_token_ids) - 1 + i, token].item() for i, token in enumerate(answer))
        assert found[request.request_id].logprob == pytest.approx(expected, abs=1e-3)


def test_samples_do_not_depend_on_batch_order_or_company(stopping_dir: Path) -> None:
    sampling = Sampling(temperature=1.0, top_p=0.9, max_tokens=16)
    asked = requests()
    together = complete(stopping_dir, asked, sampling)
    assert len({tuple(found.token_ids) for found in together.values()}) > len(asked) / 2
    assert {len(found.token_ids) for found in together.values()} > {16}
    for batch_tokens in (4096, 130, 1):
        shuffled = random.Random(batch_tokens).sample(asked, len(asked))
        budget = SETTINGS.model_copy(update={"batch_tokens": batch_tokens})
        again = complete(stopping_dir, shuffled, sampling, budget)
        assert {name: said(found) for name, found in again.items()} == {
            name: said(found) for name, found in together.items()
        }


def test_shared_prefill_equals_separate(stopping_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D32: the votes on a response each computed its prompt again."""
    sampling = Sampling(max_tokens=10)
    shared = complete(stopping_dir, requests(), sampling)
    monkeypatch.setattr("stages.engines.torch.PREFILL_TOKENS", 1)
    for request in requests():
        alone = complete(stopping_dir, [request], sampling)[request.request_id]
        assert alone.token_ids == shared[request.request_id].token_ids
        assert alone.logprob == pytest.approx(shared[request.request_id].logprob, abs=1e-4)
    in_chunks = complete(stopping_dir, requests(), sampling)
    assert {name: c.token_ids for name, c in in_chunks.items()} == {name: c.token_ids for name, c in shared.items()}


def test_finish_reasons(stopping_dir: Path) -> None:
    stops = {STOP, *range(300, 320)}
    found = complete(stopping_dir, requests(20), Sampling(max_tokens=10))
    assert {c.finish_reason for c in found.values()} == {"stop", "length"}
    for completion in found.values():
        assert not stops & set(completion.token_ids[:-1])
        assert (completion.token_ids[-1] in stops) == (completion.finish_reason == "stop")
        assert completion.finish_reason == "stop" or len(completion.token_ids) == 10


def test_prompt_without_room_is_an_error_alone(tiny_model_dir: Path) -> None:
    asked = [Request("fits", (5,) * 54, 0), Request("long", (5,) * 55, 0), Request("empty", (), 0)]
    found = complete(tiny_model_dir, asked, Sampling(max_tokens=10))
    assert found["fits"].finish_reason == "length"
    assert (found["long"].finish_reason, found["long"].token_ids) == ("error", [])
    assert "55 tokens" in str(found["long"].error)
    assert found["empty"].finish_reason == "error"


def test_unfit_models_are_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"256 positions; lower engine\.max_sequence_length"):
        TorchEngine(tiny_model_dir, EngineSettings(max_sequence_length=257, device="cpu")).__enter__()
    write_tokenizer(tmp_path)
    with pytest.raises(StageError, match="cannot load the model"):
        TorchEngine(tmp_path, SETTINGS).__enter__()


def test_tokenizer_of_another_model_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_dir, folder)
    small = LlamaForCausalLM.from_pretrained(folder)
    small.resize_token_embeddings(100)
    small.save_pretrained(folder)
    with pytest.raises(StageError, match="ids up to 290, but the model only 100 embeddings"):
        TorchEngine(folder, SETTINGS).__enter__()


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), max_size=12), st.integers(1, 20), st.integers(1, 400))
def test_batches_keep_every_request_within_the_budget(sizes: list[tuple[int, int]], room: int, budget: int) -> None:
    asked = [Request(f"{p}-{s}", (p,) * n, 0) for p, (n, samples) in enumerate(sizes) for s in range(samples)]
    grouped = list(batches(asked, room, budget))
    assert sorted(r.request_id for batch in grouped for r in batch) == sorted(r.request_id for r in asked)
    for batch in grouped:
        longest = max(len(r.prompt_token_ids) for r in batch)
        assert len(batch) == 1 or len(batch) * (longest + room) <= budget


@given(st.lists(st.booleans(), min_size=1))
def test_moves_leave_exactly_the_live_rows(flags: list[bool]) -> None:
    going = torch.tensor(flags)
    holes, last = moves(going)
    rows = torch.arange(len(flags))
    rows[holes] = rows[last]
    assert sorted(rows[: int(going.sum())].tolist()) == [i for i, flag in enumerate(flags) if flag]


def test_inverse_cdf_draws_the_softmax_distribution() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.0, 1.1]])
    n = 20_000
    grid = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens, logprobs = draw(logits.expand(n, -1), grid, Sampling(temperature=0.7))
    expected = torch.softmax(logits[0].double() / 0.7, dim=-1)
    # On an even grid of uniforms each token's share is exact to one grid step.
    assert torch.allclose(torch.bincount(tokens, minlength=5).double() / n, expected, atol=1.5 / n)
    assert torch.allclose(logprobs, logits[0].double().log_softmax(-1)[tokens], atol=1e-6)


def test_no_uniform_number_draws_a_token_of_weight_zero() -> None:
    weights = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]], dtype=torch.float64)
    for uniform, token in ((0.0, 1), (0.4999, 1), (0.5, 3), (1 - 2**-53, 3)):
        assert invert(weights, torch.tensor([uniform], dtype=torch.float64)).item() == token


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 2), st.integers(0, 40), st.floats(0.05, 1))
def test_truncation_equals_the_library(seed: int, temperature: float, top_k: int, top_p: float) -> None:
    logits = torch.randn(3, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    found = probabilities(logits, Sampling(temperature=temperature, top_k=top_k, top_p=top_p))
    assert torch.allclose(found / found.sum(-1, keepdim=True), expected.softmax(-1), atol=1e-12)


def test_uniforms_depend_on_their_own_seed_alone() -> None:
    seeds = [0, 7, 2**63 - 1]
    together = uniforms(seeds, 5)
    assert together.shape == (3, 5)
    assert len(np.unique(together.numpy())) == 15
    assert all(torch.equal(uniforms([seed], 9)[0, :5], row) for seed, row in zip(seeds, together, strict=True))


def test_wide_vocabularies_are_drawn_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
    whole = draw(logits, uniforms([3], 7)[0], Sampling())
    monkeypatch.setattr("stages.engines.sampling._CHUNK", 22)
    parts = draw(logits, uniforms([3], 7)[0], Sampling())
    assert torch.equal(whole[0], parts[0])
    assert torch.equal(whole[1], parts[1])
