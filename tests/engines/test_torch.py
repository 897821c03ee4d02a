"""The embedded engine: the model's own distribution, whatever shares the batch."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from stages.config import EngineSettings, Sampling
from stages.contracts.errors import StageError
from stages.engines.protocol import Completion, Request
from stages.engines.sampling import draw, uniforms
from stages.engines.torch import TorchEngine, automatic_dtype
from tests.support import model_families
from tests.support.tiny_model import write_tokenizer

SETTINGS = EngineSettings(max_sequence_length=64, batch_tokens=4096, device="cpu", dtype="float32")
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


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_equals_the_library(tiny_model_dir: Path, model: LlamaForCausalLM, penalty: float) -> None:
    sampling = Sampling(temperature=0, max_tokens=20, repetition_penalty=penalty)
    found = complete(tiny_model_dir, requests(samples=1), sampling)
    for request in requests(samples=1):
        ids = torch.tensor([request.prompt_token_ids])
        options = {"do_sample": False, "max_new_tokens": 20, "repetition_penalty": penalty}
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        assert found[request.request_id].token_ids == expected[0, ids.shape[1] :].tolist()


def plainly(model: torch.nn.Module, request: Request, sampling: Sampling, stops: set[int]) -> tuple[list[int], float]:
    """What the request must draw, and its log-probability: a forward pass over everything for each token."""
    chance, total = uniforms([request.seed], sampling.max_tokens)[0], 0.0
    ids = list(request.prompt_token_ids)
    for uniform in chance:
        with torch.inference_mode():
            logits = model(torch.tensor([ids]), use_cache=False).logits[:, -1].float()
        seen = torch.zeros_like(logits, dtype=torch.bool)
        seen[0, ids] = True
        token, logprob = draw(logits, uniform[None], sampling, seen if sampling.repetition_penalty != 1 else None)
        ids.append(int(token))
        total += float(logprob)
        if ids[-1] in stops:
            break
    return ids[len(request.prompt_token_ids) :], total


@pytest.mark.parametrize("budget", [4096, 260])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
@pytest.mark.parametrize("shared", [0, 9])
def test_samples_equal_a_plain_loop(
    stopping_dir: Path, model: LlamaForCausalLM, budget: int, penalty: float, shared: int
) -> None:
    """Without any cache, batch or shared prompt: the same tokens, and log-probabilities up to rounding."""
    sampling = Sampling(temperature=0.9, top_p=0.95, min_p=0.01, repetition_penalty=penalty, max_tokens=12)
    asked = [Request(r.request_id, (7,) * shared + r.prompt_token_ids, r.seed) for r in requests()]
    found = complete(stopping_dir, asked, sampling, SETTINGS.model_copy(update={"batch_tokens": budget}))
    for request in asked:
        tokens, logprob = plainly(model, request, sampling, {STOP, *range(300, 320)})
        assert found[request.request_id].token_ids == tokens
        assert found[request.request_id].logprob == pytest.approx(logprob, abs=1e-4)


@pytest.mark.parametrize("family", model_families.FAMILIES)
def test_every_family_samples_as_its_model(family: str, tmp_path: Path) -> None:
    """Windows, soft caps, biases, and attention that is handed no arguments."""
    model_families.write(family, tmp_path)
    write_tokenizer(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager").eval()
    sampling = Sampling(max_tokens=10)
    asked = [Request(r.request_id, (7, 8, 9, *r.prompt_token_ids), r.seed) for r in requests(3, 2)]
    found = complete(tmp_path, asked, sampling)
    for request in asked:
        tokens, logprob = plainly(model, request, sampling, {STOP})
        assert found[request.request_id].token_ids == tokens
        assert found[request.request_id].logprob == pytest.approx(logprob, abs=1e-3)


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
    monkeypatch.setattr("stages.engines.decoding.PREFILL_TOKENS", 1)
    for request in requests():
        alone = complete(stopping_dir, [request], sampling)[request.request_id]
        assert alone.token_ids == shared[request.request_id].token_ids
        assert alone.logprob == pytest.approx(shared[request.request_id].logprob, abs=1e-4)
    in_chunks = complete(stopping_dir, requests(), sampling)
    assert {name: c.token_ids for name, c in in_chunks.items()} == {name: c.token_ids for name, c in shared.items()}


def test_what_is_computed_once_for_several_samples_counts_as_found(tiny_model_dir: Path) -> None:
    """Prompts of 4 tokens, 1 of them shared: of the other 3 each of two samples pays a half."""
    asked = [Request(f"{word}-{vote}", (2, word, 70, 3), vote) for word in (50, 60) for vote in range(2)]
    found = complete(tiny_model_dir, asked, Sampling(max_tokens=3))
    assert {one.cached for one in found.values()} == {1 - 3 / 8}


def test_finish_reasons(stopping_dir: Path) -> None:
    stops = {STOP, *range(300, 320)}
    found = complete(stopping_dir, requests(20), Sampling(max_tokens=10))
    assert {c.finish_reason for c in found.values()} == {"stop", "length"}
    for completion in found.values():
        assert not stops & set(completion.token_ids[:-1])
        assert (completion.token_ids[-1] in stops) == (completion.finish_reason == "stop")
        assert completion.finish_reason == "stop" or len(completion.token_ids) == 10


def test_a_stop_string_ends_the_text_before_it(tiny_model_dir: Path) -> None:
    sampling = Sampling(max_tokens=24)
    whole = complete(tiny_model_dir, requests(20), sampling)
    stops = ["e", "lo"]
    found = complete(tiny_model_dir, requests(20), sampling.model_copy(update={"stop": stops}))
    ended = 0
    for name, completion in found.items():
        text, tokens = whole[name].text, whole[name].token_ids
        places = [text.find(stop) for stop in stops if stop in text]
        assert completion.text == (text[: min(places)] if places else text)
        assert completion.token_ids == tokens[: len(completion.token_ids)]
        if places:
            ended += 1
            assert completion.finish_reason == "stop"
            with TorchEngine(tiny_model_dir, SETTINGS) as engine:
                shown = engine._chat.decode(completion.token_ids[:-1])
            assert not any(stop in shown for stop in stops), "the last token completed it"
        else:
            assert said(completion) == said(whole[name])
    assert 5 < ended < 60


def test_completions_come_as_they_finish(stopping_dir: Path) -> None:
    """The short ones of a batch can be journalled while the long ones go on."""
    with TorchEngine(stopping_dir, SETTINGS) as engine:
        lengths = [len(c.token_ids) for c in engine.generate(requests(10), Sampling(max_tokens=16))]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_automatic_dtype_is_bfloat16_only_where_the_processor_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for able, dtype in (({"avx512_bf16": True}, "bfloat16"), ({"amx_bf16": True}, "bfloat16"), ({}, "float32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert automatic_dtype("cpu") == dtype
        assert automatic_dtype("cuda") == "auto"


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
