"""Created prompts, filtered: what is taken off a text, and each filter with its reason."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import filter_prompts
from stages.contracts.artifacts import provenance, read, write
from stages.contracts.errors import StageError
from stages.contracts.ids import prompt_id
from stages.contracts.schema import frame
from stages.create import creation_id
from stages.filter_prompts import clean, malformed
from stages.tables import CREATION_LEDGER, CREATIONS, PROMPTS
from tests.support.records import turns, write_prompts

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
    "Sure! Here's a new task:\n\nWrite a poem.",
    "Certainly, here is another example task for you: Write a poem.",
    "Here’s a question that fits: Write a poem.",
    "Sure!\nWrite a poem.",
    "### New Task\nWrite a poem.",
    "**Instruction**\n\nWrite a poem.",
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
    "Okay, so I have two dogs. Which one barks?",
    "Great Britain has how many islands?",
    "Here is a list: 1, 2, 3. Add them.",
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
    16: ("I'm sorry, but I can't write a task about that.", "stop", "refusal"),
    17: ("As an AI language model, I have no tasks.", "stop", "refusal"),
    18: ("Which river is the longest one?\n\n**Answer:** The Nile.", "stop", "answer"),
    19: ("Go to the nearest shop and tell me what it sells.", "stop", "keyword"),
    15: ("Ask the second turn something sensible then", "stop", "similar"),
}


def write_creations(path: Path, numbers: Sequence[int], iteration: int = 3) -> Path:
    rows = [
        {"creation_id": creation_id(iteration, n), "shots": [], "seed": n, "text": CASES[n][0], "token_ids": [],
         "tokens": 0, "finish_reason": CASES[n][1], "logprob": None, "error": None}
        for n in numbers
    ]  # fmt: skip
    write(frame(CREATIONS, rows), path, CREATIONS, {})
    return path


@pytest.fixture
def run_filter(tmp_path: Path) -> Any:
    """Run the stage on files of creations; returns prompts and ledger."""
    asked = [
        turns("The pool question about taxes"),
        turns("Hello", "Yes?", "Ask the second turn something sensible"),
    ]
    pool = write_prompts(tmp_path / "pool.parquet", asked, "validation")
    previous = write_prompts(tmp_path / "previous.parquet", [turns("An earlier made question about ships")])

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
    assert kept[2]["messages"] == turns("Name three rivers of Africa.")
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
    assert details[12] == f"1.000 to {prompt_id(turns('An earlier made question about ships'))}"
    many = prompt_id(turns("Hello", "Yes?", "Ask the second turn something sensible"))
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
