"""`select`: a seeded draw that ignores row order and never hands out a prompt twice."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.contracts import artifacts
from stages.contracts.errors import StageError
from stages.contracts.ids import Seeds, prompt_id
from stages.contracts.schema import frame
from stages.select import Args, draw, main
from stages.tables import PROMPTS
from tests.support.records import turns, write_prompts

MESSAGES = {prompt_id(turns(text)): turns(text) for text in [*map("Question {}".format, range(40)), *"abcdef"]}
IDS, MADE = list(MESSAGES)[:40], list(MESSAGES)[40:]


def write_pool(path: Path, train: int, validation: int = 0) -> Path:
    rows = [
        {
            "prompt_id": prompt,
            "messages": MESSAGES[prompt],
            "answer": None,
            "split": "train" if number < train else "validation",
            "source": "chat.jsonl",
            "row": number + 1,
        }
        for number, prompt in enumerate(IDS[: train + validation])
    ]
    artifacts.write(frame(PROMPTS, rows), path, PROMPTS, {})
    return path


def select(folder: Path, pool: Path, iteration: int, prompts: Any, **settings: Any) -> set[str]:
    output = folder / f"{iteration}.parquet"
    if "previous" not in settings:
        settings["previous"] = [folder / f"{earlier}.parquet" for earlier in range(1, iteration)]
    main(Args(pool=pool, output=output, iteration=iteration, prompts=prompts, **settings))
    return set(artifacts.read(output, PROMPTS)["prompt_id"])


@given(st.permutations(IDS), st.integers(1, len(IDS)), st.integers(0, 5), st.integers(1, 5))
def test_the_draw_ignores_row_order(shuffled: list[str], count: int, seed: int, iteration: int) -> None:
    found = draw(shuffled, count, Seeds(seed, iteration))
    assert found == draw(IDS, count, Seeds(seed, iteration))
    assert len(set(found)) == count
    assert set(found) <= set(IDS)


@given(st.integers(1, len(IDS)))
def test_a_smaller_draw_is_part_of_a_larger_one(count: int) -> None:
    assert set(draw(IDS, count - 1, Seeds(0, 1))) < set(draw(IDS, count, Seeds(0, 1)))


def test_the_draw_depends_on_seed_and_iteration_and_is_fair() -> None:
    assert draw(IDS, 20, Seeds(0, 1)) != draw(IDS, 20, Seeds(1, 1))
    assert draw(IDS, 20, Seeds(0, 1)) != draw(IDS, 20, Seeds(0, 2))
    hits = sum(IDS[0] in draw(IDS, 10, Seeds(seed, 1)) for seed in range(400))
    assert abs(hits - 100) < 4 * (400 * 0.25 * 0.75) ** 0.5  # four standard deviations of the binomial


def test_iterations_are_disjoint_and_use_up_the_train_split_alone(tmp_path: Path) -> None:
    """D33: every iteration had the same prompts."""
    pool = write_pool(tmp_path / "pool.parquet", train=30, validation=10)
    drawn = [select(tmp_path, pool, iteration, prompts=[8, 12, 10]) for iteration in (1, 2, 3)]
    assert [len(ids) for ids in drawn] == [8, 12, 10]
    assert set.union(*drawn) == set(IDS[:30])


def test_rows_come_as_the_pool_has_them(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool.parquet", train=5)
    select(tmp_path, pool, 1, prompts=5)
    assert artifacts.read(tmp_path / "1.parquet", PROMPTS).equals(artifacts.read(pool, PROMPTS))


def test_too_few_prompts_says_how_many_are_left_and_what_to_do(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool.parquet", train=10, validation=5)
    select(tmp_path, pool, 1, prompts=7)
    expected = r"iteration 2 asks for 7 prompts, but 3 are left \(7 of the 10 train.*lower select.prompts.*reuse: true"
    with pytest.raises(StageError, match=expected):
        select(tmp_path, pool, 2, prompts=7)
    assert not (tmp_path / "2.parquet").exists()
    with pytest.raises(StageError, match="11 prompts, but 10 are left") as caught:
        select(tmp_path, pool, 2, prompts=11, reuse=True)
    assert "reuse: true" not in str(caught.value)  # it is set already and would not help


def test_reuse_draws_from_the_whole_train_split(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool.parquet", train=10)
    assert select(tmp_path, pool, 2, prompts=10, reuse=True, previous=[]) == set(IDS[:10])


def test_forgotten_earlier_selections_are_an_error(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool.parquet", train=10)
    with pytest.raises(StageError, match=r"exclude the prompts of 2 earlier selections, but --previous names 0"):
        select(tmp_path, pool, 3, prompts=1, previous=[])


def write_created(path: Path, ids: list[str]) -> Path:
    rows = [
        {"prompt_id": prompt,  "messages": MESSAGES[prompt], "split": "train", "source": "made",
         "row": number}
        for number, prompt in enumerate(ids, 1)
    ]  # fmt: skip
    artifacts.write(frame(PROMPTS, rows), path, PROMPTS, {})
    return path


def test_prompts_created_for_the_iteration_come_first_and_the_rest_is_drawn(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool.parquet", train=10)
    first = write_created(tmp_path / "made1.parquet", MADE[:2])
    second = write_created(tmp_path / "made2.parquet", MADE[2:])
    one = select(tmp_path, pool, 1, prompts=5, created=first)
    two = select(tmp_path, pool, 2, prompts=5, created=second, created_before=[first])
    assert set(MADE[:2]) <= one
    assert set(MADE[2:]) <= two
    assert len(one) == len(two) == 5
    assert not one & two
    assert one <= {*IDS[:10], *MADE[:2]}


def test_created_prompts_that_are_too_many_wait_for_a_later_iteration(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool.parquet", train=2)
    created = write_created(tmp_path / "made.parquet", MADE)
    one = select(tmp_path, pool, 1, prompts=4, created=created)
    two = select(tmp_path, pool, 2, prompts=4, created_before=[created])
    assert one < set(MADE)
    assert one | two == {*IDS[:2], *MADE}


def test_a_created_prompt_that_the_pool_has_counts_once_and_as_the_pool_has_it(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool.parquet", train=3, validation=1)
    created = write_created(tmp_path / "made.parquet", [IDS[0], IDS[3]])
    assert select(tmp_path, pool, 1, prompts=1, created=created) == {IDS[0]}
    assert artifacts.read(tmp_path / "1.parquet", PROMPTS)["source"].to_list() == ["chat.jsonl"]
    with pytest.raises(StageError, match="4 prompts, but 3 are left"):  # the fourth is held out
        select(tmp_path, pool, 1, prompts=4, created=created)


def test_a_used_prompt_is_not_used_again_because_it_was_created_again(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool.parquet", train=4)
    select(tmp_path, pool, 1, prompts=2, created=write_created(tmp_path / "made1.parquet", IDS[:2]))
    again = write_created(tmp_path / "made2.parquet", IDS[:2])
    assert select(tmp_path, pool, 2, prompts=2, created=again) == set(IDS[2:4])


def test_a_prompt_that_models_are_measured_on_is_never_selected(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool.parquet", train=4)
    measured = write_created(tmp_path / "held_out.parquet", IDS[:2])
    assert select(tmp_path, pool, 1, prompts=2, held_out=[measured]) == set(IDS[2:4])


def test_a_near_twin_of_a_measured_or_pooled_prompt_is_that_prompt(tmp_path: Path) -> None:
    pool = write_pool(tmp_path / "pool.parquet", train=4)
    measured = write_prompts(tmp_path / "held_out.parquet", [turns("question\u200b 0"), turns(" QUESTION  1")])
    created = write_prompts(tmp_path / "made.parquet", [turns("question 2"), turns("new")])
    chosen = select(tmp_path, pool, 1, prompts=3, held_out=[measured], created=created)
    assert chosen == {*IDS[2:4], prompt_id(turns("new"))}
