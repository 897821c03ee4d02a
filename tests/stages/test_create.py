"""Prompt creation from pool to prompts: examples drawn, requests made, and each filter with its reason."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import create, filter_prompts
from stages.config import EngineSettings, Sampling
from stages.contracts.artifacts import provenance, read, write
from stages.contracts.errors import StageError
from stages.contracts.ids import Seeds, prompt_id
from stages.contracts.schema import frame
from stages.engines.protocol import Completion, Request
from stages.filter_prompts import clean, malformed
from stages.prompting.chat import ChatTokenizer
from stages.tables import CREATION_LEDGER, CREATIONS, PROMPTS, SFT_EXAMPLES

SAMPLING = Sampling(max_tokens=8)
ENGINE = EngineSettings(max_sequence_length=256, device="cpu")
ROOT = Path(__file__).parents[2]


class Double:
    """An engine that writes `Task <seed>`, and remembers what it was asked."""

    seeds_honoured = True

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def __enter__(self) -> "Double":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        self.asked += requests
        for request in reversed(requests):
            yield Completion(request.request_id, f"Task {request.seed}", [1, 2, 4], "stop", -1.0)


def messages(*turns: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(turns)]


def write_prompts(path: Path, prompts: Sequence[list[dict[str, str]]], split: str = "train") -> Path:
    rows = [
        {"prompt_id": prompt_id(turns), "messages": turns, "split": split, "source": "s", "row": number}
        for number, turns in enumerate(prompts, 1)
    ]
    write(frame(PROMPTS, rows), path, PROMPTS, {})
    return path


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "pool.parquet", [messages(f"pool {n}") for n in range(12)])


@pytest.fixture
def template(tmp_path: Path) -> Path:
    path = tmp_path / "template.jinja"
    path.write_text("{% for example in examples %}[{{ example }}]{% endfor %}")
    return path


@pytest.fixture
def run_create(
    tiny_model_dir: Path, tmp_path: Path, pool: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Run the stage with a double; returns its rows and what the double was asked."""

    def run(name: str = "creations.parquet", **settings: Any) -> tuple[pl.DataFrame, list[Request]]:
        engine = Double()
        monkeypatch.setattr(create, "open_engine", lambda model, settings: engine)
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
    previous = write_prompts(tmp_path / "previous.parquet", [messages(f"made {n}") for n in range(5)])
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
    kinds = [messages("one"), messages("two", "yes", "more"), [{"role": "system", "content": "Be."}, *messages("x")]]
    train = read(write_prompts(tmp_path / "a.parquet", kinds), PROMPTS)
    held_out = read(write_prompts(tmp_path / "b.parquet", [messages("held out")], "validation"), PROMPTS)
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


SURROUNDED = [
    "Task 9: Write a poem.",
    "9. Write a poem.",
    '"Write a poem."',
    "**Task:** Write a poem.",
    "**New task:** “Write a poem.”",
    "<task>\nWrite a poem.\n</task>",
    "- Write a poem.",
    "## Task 9\n\nWrite a poem.",
    "  Instruction: 1) 'Write a poem.'\n",
    "**Write a poem.**",
    "```\nWrite a poem.\n```",
    "Task #9. Write a poem.",
    "Task 9:\n1. Write a poem.",
]
OWN = [
    "Questions are hard. Why?",
    '"Be" or "not"',
    "3.5 km is how many m?",
    "Task lists help. How?",
    "'tis so. Who said it?",
    "**Bold** and **bold**",
    "100 people vote. Who wins?",
    "Compare:\n1. a\n2. b",
    "1. Sing.\n2. Draw.",
    "",
]


@pytest.mark.parametrize("said", SURROUNDED)
def test_what_surrounds_the_task_is_taken_off(said: str) -> None:
    assert clean(said) == "Write a poem."


@pytest.mark.parametrize("task", OWN)
def test_what_belongs_to_the_task_stays(task: str) -> None:
    assert clean(task) == task


PIECES = ["Task", " 9", ":", "**", '"', "“", "”", "\n", "1.", " ", "- ", "<task>", "</task>", "#", "`", "x"]


@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_cleaning_twice_is_cleaning_once_and_never_adds(text: str) -> None:
    assert clean(clean(text)) == clean(text)
    assert clean(text) in text


@pytest.mark.parametrize(
    ("text", "flaw"),
    [("1 + 1 = 2?", "no letters"), (", and then what?", "starts with ','"), ("→ go", "starts with '→'"),
     ("Say hi.\nUser: and then?", "chat role label 'User:'"), ("Say <|end|> twice", "chat role label '<|end|>'"),
     ("Sum it.\n\nTask 10: Draw it.", "another task: 'Task 10'"), ("One.\n</task>\nTwo.", "another task: '</task>'"),
     ("8. Sing.\n\n9. Draw.", "numbered list of tasks"), ("१. गाओ।\n२. लिखो।", "numbered list of tasks"),
     ("Say " + "a" * 20, "21 of 23 characters are 'a'"), ("on it go " * 4 + "now", "7 of 11 runs of 3 words repeat"),
     ("Go on.\nWhy not?\n" * 2, "2 of 4 lines repeat")],
)  # fmt: skip
def test_a_text_that_cannot_be_one_task_is_malformed(text: str, flaw: str) -> None:
    assert flaw in (malformed(text.strip()) or "")


@pytest.mark.parametrize(
    "text",
    ["¿Qué hora es?", "“Be” means what?", "(a) or (b), which one?", "写一首关于猫的诗。", "हिन्दी में लिखो।", "$5 in €?",
     "Sort: 1. b 2. a", "Sort:\n1. b\n2. a", "1. b\n5. a",
     "Напиши стих.", "Translate:\nI am.\nYou are.\nShe is.", "`ls` does what?",
     "ช่วยเขียนบทกวีสั้นๆ เกี่ยวกับแมวที่ชอบนอนกลางวันบนหลังคาบ้านในฤดูฝนที่เชียงใหม่ แล้วอธิบายความหมายของบทกวีนั้นให้เด็กเข้าใจง่าย"],
)  # fmt: skip
def test_tasks_of_any_language_are_sound(text: str) -> None:
    assert malformed(text) is None


GOOD = "Explain to a child why the sky looks blue at noon but red in the evening."
CASES = {
    1: (GOOD, "stop", None),
    2: ("Task 2: Name three rivers of Africa.", "stop", None),
    3: ("Explain how", "length", "length"),
    4: ("", "error", "error"),
    5: (" \n ", "stop", "empty"),
    6: ("Task 6: Hi", "stop", "short"),
    7: ("Sum " + "up the numbers " * 20, "stop", "overlong"),
    8: ("Describe the PICTURE of your dreams.", "stop", "keyword"),
    9: ("; select everything from it", "stop", "malformed"),
    10: ("“Name three  rivers of AFRICA.”", "stop", "duplicate"),
    11: ("the pool question about taxes", "stop", "duplicate"),
    12: ("An earlier made question about ships!", "stop", "near_duplicate"),
    13: (GOOD.replace("evening", "morning"), "stop", "similar"),
    14: ("Name some deserts of Asia, please.", "stop", None),
    15: ("Ask the second turn something sensible then", "stop", "similar"),
}


def write_creations(path: Path, numbers: Sequence[int], iteration: int = 3) -> Path:
    rows = [
        {"creation_id": create.creation_id(iteration, n), "shots": [], "seed": n, "text": CASES[n][0], "token_ids": [],
         "tokens": 0, "finish_reason": CASES[n][1], "logprob": None, "error": None}
        for n in numbers
    ]  # fmt: skip
    write(frame(CREATIONS, rows), path, CREATIONS, {})
    return path


@pytest.fixture
def run_filter(tmp_path: Path) -> Any:
    """Run the stage on files of creations; returns prompts and ledger."""
    turns = [
        messages("The pool question about taxes"),
        messages("Hello", "Yes?", "Ask the second turn something sensible"),
    ]
    pool = write_prompts(tmp_path / "pool.parquet", turns, "validation")
    previous = write_prompts(tmp_path / "previous.parquet", [messages("An earlier made question about ships")])

    def run(creations: list[Path], **settings: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
        outputs = {"prompts": tmp_path / "prompts.parquet", "ledger": tmp_path / "ledger.parquet"}
        values = {"pool": pool, "previous": [previous], "max_characters": 200, **outputs}
        filter_prompts.main(filter_prompts.Args(creations=creations, **{**values, **settings}))
        return read(outputs["prompts"], PROMPTS), read(outputs["ledger"], CREATION_LEDGER)

    return run


def test_every_creation_is_a_prompt_or_has_the_first_reason_that_applies(run_filter: Any, tmp_path: Path) -> None:
    """D33: there was no prompt creation."""
    prompts, ledger = run_filter([write_creations(tmp_path / "creations" / "0.parquet", list(CASES))])
    reasons = {int(key.split("-")[1]): reason for key, reason in ledger.select("creation_id", "reason").rows()}
    assert reasons == {n: reason for n, (_, _, reason) in CASES.items() if reason}
    kept = {row["row"]: row for row in prompts.iter_rows(named=True)}
    assert sorted(kept) == [n for n, (_, _, reason) in CASES.items() if reason is None]
    assert kept[2]["messages"] == messages("Name three rivers of Africa.")
    for row in kept.values():
        assert row["prompt_id"] == prompt_id(row["messages"])
        assert (row["split"], row["answer"], row["checks"]) == ("train", None, None)
        assert row["source"] == str(tmp_path / "creations")


def test_the_ledger_names_the_other_prompt_and_the_value(run_filter: Any, tmp_path: Path) -> None:
    _, ledger = run_filter([write_creations(tmp_path / "0.parquet", list(CASES))])
    details = {int(key.split("-")[1]): detail for key, _, detail in ledger.select(list(CREATION_LEDGER.columns)).rows()}
    size = len(GOOD.split())
    assert details[13] == f"{(size - 1) / size:.3f} to 3-000001"
    assert details[10] == "1.000 to 3-000002"
    assert details[12] == f"1.000 to {prompt_id(messages('An earlier made question about ships'))}"
    many = prompt_id(messages("Hello", "Yes?", "Ask the second turn something sensible"))
    assert details[15] == f"{2 * 6 / 13:.3f} to {many}"


def test_the_number_of_shards_changes_nothing(run_filter: Any, tmp_path: Path) -> None:
    folder = tmp_path / "creations"
    whole = run_filter([write_creations(folder / "whole.parquet", list(CASES))])
    shards = [write_creations(folder / f"{s}.parquet", [n for n in CASES if n % 3 == s]) for s in (2, 0, 1)]
    parts = run_filter(shards)
    assert all(one.equals(other) for one, other in zip(whole, parts, strict=True))


def test_limits_and_keywords_come_from_the_settings(run_filter: Any, tmp_path: Path) -> None:
    creations = [write_creations(tmp_path / "0.parquet", list(CASES))]
    prompts, ledger = run_filter(
        creations, keywords=["THREE rivers", "sky l", "Some deserts of"], max_similarity=0.95, min_characters=2
    )
    assert {1, 6, 8, 15} <= set(prompts["row"])
    reasons = dict(ledger.select("creation_id", "reason").rows())
    assert reasons["3-000002"] == reasons["3-000014"] == "keyword"
    stored = provenance(tmp_path / "prompts.parquet")
    assert stored["settings"]["keywords"] == ["THREE rivers", "sky l", "Some deserts of"]


@pytest.mark.parametrize("numbers", [[2, 3], [1, 2, 4]])
def test_a_missing_shard_is_noticed(run_filter: Any, tmp_path: Path, numbers: list[int]) -> None:
    with pytest.raises(StageError, match=f"creation 3-{numbers[-1] if numbers[0] == 1 else 2:06d} does not follow"):
        run_filter([write_creations(tmp_path / "0.parquet", numbers)])


def test_creations_of_two_iterations_or_twice_the_same_are_refused(run_filter: Any, tmp_path: Path) -> None:
    one, other = write_creations(tmp_path / "0.parquet", [1, 2]), write_creations(tmp_path / "1.parquet", [1, 2], 4)
    with pytest.raises(StageError, match="creation 4-000001 does not follow number 2 of iteration 3"):
        run_filter([one, other])
    with pytest.raises(StageError, match="creation 3-000001 does not follow number 1"):
        run_filter([one, one])


def test_no_creations_at_all_give_no_prompts(run_filter: Any, tmp_path: Path) -> None:
    prompts, ledger = run_filter([write_creations(tmp_path / "0.parquet", [])])
    assert (prompts.height, ledger.height) == (0, 0)


def test_missing_created_examples_come_from_the_pool() -> None:
    pool = [create.Example(f"p{number}", "") for number in range(12)]
    made = [create.Example("m0", "")]
    shots = create.draw(pool, made, pool_shots=6, created_shots=2, seed=3)
    assert len(set(shots)) == 8
    assert made[0] in shots
    assert len(create.draw(pool[:7], [], pool_shots=6, created_shots=2, seed=3)) == 7


def test_instruction_data_lends_its_prompts_as_examples() -> None:
    turns = [{"role": "user", "content": "Name a prime."}, {"role": "assistant", "content": "7"}]
    system = [{"role": "system", "content": "Be brief."}, *turns]
    rows = [
        {"example_id": name, "messages": messages, "prompt_loss_weight": 0.0}
        for name, messages in (("ift-b", turns), ("ift-a", system))
    ]
    assert create.ift_examples(frame(SFT_EXAMPLES, rows)) == [create.Example("ift-b", "Name a prime.")]
