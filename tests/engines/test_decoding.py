"""Who enters when, what is prefilled together, and where text is cut."""

from collections import deque

import torch
from hypothesis import given
from hypothesis import strategies as st

from stages.engines.cohort import moves
from stages.engines.decoding import cut, fitting, in_order, packs, shared_head
from stages.engines.protocol import Request
from stages.engines.shared_prefix import seats

prompts = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 5)), min_size=1, max_size=12)


@given(prompts, st.integers(1, 20), st.integers(1, 400), st.booleans())
def test_who_enters_fits_in_whole_prompts(sizes: list[tuple[int, int]], new: int, room: int, alone: bool) -> None:
    asked = [Request(f"{p}-{s}", (p,) * n, 0) for p, (n, samples) in enumerate(sizes) for s in range(samples)]
    waiting = in_order(asked)
    shared = min(n for n, _ in sizes) - 1
    count = fitting(deque(waiting), shared, new, room, alone)
    entering, longest = waiting[:count], len(waiting[0].prompt_token_ids) - shared
    distinct = {request.prompt_token_ids for request in entering}
    assert count <= 1 or len(distinct) * longest + count * new <= room
    assert count or not alone
    whole = count == len(waiting) or waiting[count].prompt_token_ids not in distinct
    assert whole or (alone and len(distinct) == 1)


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=6).map(tuple), min_size=1, max_size=6))
def test_the_shared_head_is_the_longest_that_leaves_a_token(asked: list[tuple[int, ...]]) -> None:
    head = shared_head(asked)
    assert all(prompt[: len(head)] == head and len(prompt) > len(head) for prompt in asked)
    longer = asked[0][: len(head) + 1]
    assert any(prompt[: len(longer)] != longer or len(prompt) == len(longer) for prompt in asked)
    assert shared_head([]) == ()


@given(st.lists(st.integers(1, 9)), st.integers(1, 20))
def test_packs_are_neighbours_within_the_bound(lengths: list[int], most: int) -> None:
    found = packs(lengths, most)
    assert [number for pack in found for number in pack] == list(range(len(lengths)))
    assert all(len(pack) == 1 or sum(lengths[number] for number in pack) <= most for pack in found)


@given(st.lists(st.integers(0, 5), min_size=1))
def test_each_sample_has_a_seat_of_its_prompt(owners: list[int]) -> None:
    places, samples = seats(owners)
    assert len(set(places)) == len(owners)
    assert [place // samples for place in places] == owners


@given(st.lists(st.booleans(), min_size=1))
def test_moves_leave_exactly_the_live_rows(flags: list[bool]) -> None:
    going = torch.tensor(flags)
    holes, last = moves(going)
    rows = torch.arange(len(flags))
    rows[holes] = rows[last]
    assert sorted(rows[: int(going.sum())].tolist()) == [i for i, flag in enumerate(flags) if flag]


def test_text_is_cut_before_the_first_stop() -> None:
    assert cut("one two three", ["three", "two"]) == "one "
    assert cut("two", ["two"]) == ""
    assert cut("one", ["two"]) is None
    assert cut("one", []) is None
