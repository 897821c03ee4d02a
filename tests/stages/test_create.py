"""Prompt creation from the pool: which examples are drawn, and the requests made of them."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages import create
from stages.config import EngineSettings, Sampling
from stages.contracts.artifacts import read
from stages.contracts.errors import StageError
from stages.contracts.ids import Seeds
from stages.contracts.schema import frame
from stages.engines import resumable
from stages.engines.protocol import Request
from stages.prompting.chat import ChatTokenizer
from stages.tables import CREATIONS, PROMPTS, SFT_EXAMPLES
from tests.support.fake_engine import FakeEngine
from tests.support.records import turn, turns, write_prompts

SAMPLING = Sampling(max_tokens=8)
ENGINE = EngineSettings(max_sequence_length=256, device="cpu", dtype="float32")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "pool.parquet", [turns(f"pool {n}") for n in range(12)])


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "template.jinja"
    path.write_text("{% for example in examples %}[{{ example }}]{% endfor %}")
    return path


@pytest.fixture
def run_create(
    tiny_model_dir: Path, tmp_path: Path, pool: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Run the stage; returns its rows and what the engine was asked."""

    def run(name: str = "creations.parquet", **settings: Any) -> tuple[pl.DataFrame, list[Request]]:
        engine = FakeEngine(lambda request: f"Task {request.seed}", backwards=True)
        monkeypatch.setattr(resumable, "open_engine", lambda model, settings: engine)
        values = {"engine": ENGINE, "model": tiny_model_dir, "pool": pool, "sampling": SAMPLING, "template": template}
        counts = {"count": 7, "pool_shots": 4, "created_shots": 2, "seed": 5, "iteration": 2}
        create.main(create.Args(**{**values, **counts, "output": tmp_path / name, **settings}))
        return read(tmp_path / name, CREATIONS), engine.asked

    return run


def texts(path: Path) -> dict[str, str]:
    return {row["prompt_id"]: row["messages"][0]["content"] for row in read(path, PROMPTS).iter_rows(named=True)}


def test_each_request_shows_its_own_draw_and_has_its_own_seed(
    run_create: Any, pool: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    previous = write_prompts(tmp_path / "previous.parquet", [turns(f"made {n}") for n in range(5)])
    found, asked = run_create(previous=[previous])
    shown, chat = {**texts(pool), **texts(previous)}, ChatTokenizer(tiny_model_dir)
    assert found["creation_id"].to_list() == [f"2-{n:06d}" for n in range(1, 8)]
    assert found["seed"].to_list() == [Seeds(5, 2).of("create", n) for n in range(1, 8)]
    requests = {request.request_id: request for request in asked}
    for row in found.iter_rows(named=True):
        assert row["text"] == f"Task {row['seed']}"
        assert sum(shown[shot].startswith("pool") for shot in row["shots"]) == 4
        assert len(set(row["shots"])) == 6
        text = "".join(f"[{shown[shot]}]" for shot in row["shots"])
        given = requests[row["creation_id"]]
        assert list(given.prompt_token_ids) == chat.encode([{"role": "user", "content": text}])
        assert given.seed == row["seed"]
    assert found["shots"].n_unique() == 7
    places = {row.index(shot) for row in found["shots"].to_list() for shot in row if shown[shot].startswith("made")}
    assert len(places) > 2  # created examples do not always come last


def test_shards_partition_the_requests_and_change_none(run_create: Any) -> None:
    whole, _ = run_create()
    parts = [run_create(f"{shard}.parquet", shard=shard, shards=3)[0] for shard in range(3)]
    assert [part.height for part in parts] == [2, 3, 2]
    assert pl.concat(parts).sort("creation_id").equals(whole)


def test_more_requests_keep_the_first_ones(run_create: Any) -> None:
    few, _ = run_create()
    many, _ = run_create("many.parquet", count=[1, 9, 1])
    assert many.height == 9
    assert many[:7].equals(few)


def test_a_shard_without_requests_is_an_empty_table(run_create: Any) -> None:
    found, asked = run_create(count=1, shard=2, shards=4)
    assert found.is_empty()
    assert asked == []


def test_only_single_user_turns_of_the_train_split_are_examples(tmp_path: Path) -> None:
    kinds = [turns("one"), turns("two", "yes", "more"), [turn("system", "Be."), *turns("x")]]
    train = read(write_prompts(tmp_path / "a.parquet", kinds), PROMPTS)
    held_out = read(write_prompts(tmp_path / "b.parquet", [turns("held out")], "validation"), PROMPTS)
    assert [example.text for example in create.examples(pl.concat([train, held_out]))] == ["one"]


def test_examples_without_room_are_left_out_and_not_recorded(run_create: Any, pool: Path) -> None:
    whole, _ = run_create(previous=[])
    tight = ENGINE.model_copy(update={"max_sequence_length": 36})
    found, asked = run_create("tight.parquet", engine=tight)
    assert max(len(request.prompt_token_ids) for request in asked) <= 36 - SAMPLING.max_tokens
    for before, after in zip(whole["shots"].to_list(), found["shots"].to_list(), strict=True):
        assert 1 <= len(after) < len(before)
        assert before[: len(after)] == after


def test_an_example_that_fits_nowhere_is_named(run_create: Any, pool: Path) -> None:
    with pytest.raises(
        StageError, match=r"prompt [0-9a-f]{16}: as an example it exceeds 2 tokens.*max_sequence_length"
    ):
        run_create(engine=ENGINE.model_copy(update={"max_sequence_length": 10}))


def test_a_pool_that_is_too_small_says_so(run_create: Any) -> None:
    with pytest.raises(StageError, match=r"pool.parquet: 12 train prompts are a single .* 13 examples; lower it"):
        run_create(pool_shots=13)


def test_the_shipped_template_shows_the_examples_as_they_are() -> None:
    template = create.load_template(ROOT / "prompts/self_instruct.jinja", {"examples"})
    values: dict[str, Any] = {"examples": ["{{ x }} first", "second\nline </task>"]}
    text = template.render(**values)
    assert "Below are 2 tasks" in text
    assert "\n<task>\n{{ x }} first\n</task>\n\n<task>\nsecond\nline </task>\n</task>\n\nWrite one more" in text
    assert not text.endswith("\n")


def test_missing_created_examples_come_from_the_pool() -> None:
    pool = [create.Example(f"p{number}", "") for number in range(12)]
    made = [create.Example("m0", "")]
    shots = create.draw(pool, made, pool_shots=6, created_shots=2, seed=3)
    assert len(set(shots)) == 8
    assert made[0] in shots
    assert len(create.draw(pool[:7], [], pool_shots=6, created_shots=2, seed=3)) == 7


def test_instruction_data_lends_its_prompts_as_examples() -> None:
    plain = turns("Name a prime.", "7")
    system = [turn("system", "Be brief."), *plain]
    rows = [
        {"example_id": name, "messages": messages, "prompt_loss_weight": 0.0}
        for name, messages in (("ift-b", plain), ("ift-a", system))
    ]
    assert create.ift_examples(frame(SFT_EXAMPLES, rows)) == [create.Example("ift-b", "Name a prime.")]
