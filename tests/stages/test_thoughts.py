"""Thoughts before an answer stay in the candidates, and nobody who reads the answer sees them."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest

from stages import evaluate, judge, meta_judge
from stages.algorithms.verification import outcomes
from stages.config import ChatSection, CreateSection, EngineSettings, Sampling
from stages.contracts.artifacts import read, write
from stages.contracts.schema import frame
from stages.engines import resumable
from stages.engines.resumable import Generator
from stages.filter_prompts import sift
from stages.prompting.chat import ChatTokenizer
from stages.prompting.system_turns import ANY_TURNS
from stages.tables import CANDIDATES, JUDGE_PROMPTS, JUDGEMENTS, META_JUDGE_PROMPTS, PROMPTS
from stages.training.examples import Encoder, preference_examples, untrained
from tests.support.fake_engine import FakeEngine
from tests.support.meta_judging import judged_files, meta_args
from tests.support.pair_files import save_pairs
from tests.support.records import candidate_row, prompt_row, turns, write_prompts
from tests.support.tiny_model import THINKING, add_marks_of_thoughts, write_tokenizer

ENGINE = EngineSettings(max_sequence_length=2048, device="cpu", dtype="float32")
THOUGHT = "<think>\nSECRET\n</think>\n\nParis."
STOP = 4


def test_the_judge_sees_the_answer_and_asks_about_none_that_is_all_thought(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    prompt = prompt_row(turns("Capital?"), answer="Paris")
    texts = [THOUGHT, "<think>\nSECRET", "Lyon."]
    rows = [candidate_row(prompt["prompt_id"], sample, text) for sample, text in enumerate(texts)]
    paths = {name: tmp_path / f"{name}.parquet" for name in ("prompts", "candidates", "output", "model_inputs")}
    write(frame(PROMPTS, [prompt]), paths["prompts"], PROMPTS, {})
    write(frame(CANDIDATES, rows), paths["candidates"], CANDIDATES, {})
    (tmp_path / "judge.jinja").write_text("{{ conversation }}|{{ response }}")
    values: dict[str, Any] = {"template": tmp_path / "judge.jinja", "sampling": Sampling(max_tokens=8), "votes": 1}
    with patch.object(resumable, "open_engine", lambda *_: FakeEngine(lambda _: "Score: 3")):
        judge.main(judge.Args(model=tmp_path, engine=ENGINE, **paths, **values))
    asked = read(paths["model_inputs"], JUDGE_PROMPTS).sort("candidate_id")
    assert [messages[0]["content"] for messages in asked["messages"]] == ["Capital?|Paris.", "Capital?|Lyon."]
    assert read(paths["output"], JUDGEMENTS).height == 2


def test_the_meta_judge_sees_neither_the_actors_nor_the_judges_thoughts(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.parquet", [turns("Capital?")])
    files = judged_files(prompts, {0: ["<think>SECRET</think>good. Score: 3", "SECRET</think>bad. Score: 1"]})
    candidates = read(files["candidates"], CANDIDATES).with_columns(text=pl.lit(THOUGHT))
    write(candidates, files["candidates"], CANDIDATES, {})
    write_tokenizer(tmp_path)
    args = meta_args(tmp_path, prompts, files, "verdicts")
    with patch.object(resumable, "open_engine", lambda *_: FakeEngine(lambda _: "Winner: Judgement A")):
        meta_judge.main(args)
    shown = read(args.model_inputs, META_JUDGE_PROMPTS).sort("vote_a")["messages"]
    assert [messages[0]["content"] for messages in shown] == [
        "Capital?|Paris.|A: good. Score: ?|B: bad. Score: ?",
        "Capital?|Paris.|A: bad. Score: ?|B: good. Score: ?",
    ]


def test_checks_are_of_the_answer_alone() -> None:
    checks = '[{"id": "punctuation:no_comma", "arguments": {}}]'
    candidate = {"finish_reason": "stop", "messages": turns("Capital?"), "checks": checks}
    (whole,) = outcomes({**candidate, "text": "<think>France, I think.</think>Paris."})
    (open_ended,) = outcomes({**candidate, "text": "<think>France"})
    assert (whole.passed, whole.detail) == (True, None)
    assert (open_ended.passed, open_ended.detail) == (False, "there is no response")


def test_a_created_prompt_is_what_follows_the_thought() -> None:
    said = {"1-1": "<think>Something about rivers.</think>\n\nName three rivers of Asia.", "1-2": "<think>Hm."}
    creations = pl.DataFrame({"creation_id": list(said), "text": list(said.values()), "finish_reason": ["stop"] * 2})
    kept, dropped = sift(creations, [], CreateSection())
    assert [text.text for text in kept] == ["Name three rivers of Asia."]
    assert dropped["1-2"][0] == "empty"


@pytest.mark.parametrize(("said", "text"), [("SECRET\n</think>\n\nParis.", THOUGHT), ("SECRET", "<think>\nSECRET")])
def test_a_thought_that_the_prompt_opened_is_opened_in_the_text(tmp_path: Path, said: str, text: str) -> None:
    """Else a thought that never ends would pass for an answer. The tokens stay those that were sampled."""
    write_tokenizer(tmp_path, THINKING)
    asked = pl.DataFrame({"request_id": ["r"], "seed": [0], "prompt_token_ids": [[1, 2]]})
    with (
        patch.object(resumable, "open_engine", lambda *_: FakeEngine(lambda _: said)),
        Generator(tmp_path, ENGINE) as generator,
    ):
        found = generator.complete(asked, Sampling(max_tokens=8), tmp_path / "out.parquet")
    assert found["text"].to_list() == [text]
    assert found["tokens"].to_list() == [len(found["token_ids"][0])]


@pytest.mark.parametrize("train_thoughts", [True, False])
def test_thoughts_carry_loss_or_are_context_alone(tmp_path: Path, train_thoughts: bool) -> None:
    write_tokenizer(tmp_path)
    begin, end = add_marks_of_thoughts(tmp_path)
    chat = ChatTokenizer(tmp_path)
    example = Encoder(chat, ANY_TURNS, train_thoughts).example("e", turns("Capital?", "<think>France</think>Paris"))
    assert not isinstance(example, str)
    (row,) = example.rows
    thought, answer = [begin, *chat.encode_text("France"), end], [*chat.encode_text("Paris"), STOP]
    trained = [*thought, *answer] if train_thoughts else answer
    assert row.tokens[row.weights == 1].tolist() == trained
    assert row.tokens.tolist() == [*chat.encode(turns("Capital?")), *thought, *answer]
    pairs = save_pairs(tmp_path / "pairs.parquet", {"p": ([10, 11], [*thought, *answer], [20, STOP])})
    settings = ChatSection(train_thoughts=train_thoughts)
    (pair,) = preference_examples(pairs, None, 99, thoughts=untrained(tmp_path, settings)).kept
    assert [one.tokens[one.weights == 1].tolist() for one in pair.rows] == [trained, [20, STOP]]


def test_quality_is_that_of_the_answer(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    write_prompts(tmp_path / "pool.parquet", [turns("Capital?")], split="validation")
    names = ("evaluations", "check_evaluations", "judgements", "judge_evaluations", "meta_evaluations", "summary")
    paths = {name: tmp_path / f"{name}.parquet" for name in names}
    (tmp_path / "oracle.py").write_text("def quality(messages, response):\n    return float(response == 'Paris.')\n")
    more: dict[str, Any] = {"samples": 1, "sampling": Sampling(max_tokens=8), "oracle": tmp_path / "oracle.py"}
    args = evaluate.Args(model=tmp_path, number=1, pool=tmp_path / "pool.parquet", engine=ENGINE, **paths, **more)
    with patch.object(resumable, "open_engine", lambda *_: FakeEngine(lambda _: THOUGHT)):
        evaluate.main(args)
    found = pl.read_parquet(paths["evaluations"])
    assert found["quality"].to_list() == [1.0, 1.0]
    assert found["text"].to_list() == [THOUGHT, THOUGHT]
