"""Length-controlled selection against a direct reading of the paper's windows, and the mix."""

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from stages.algorithms.mixing import balanced, mix, shares
from stages.algorithms.selection import actor_members, judge_members

CANDIDATES = st.lists(
    st.tuples(st.integers(0, 20).map(lambda n: n / 4), st.integers(1, 6), st.integers(1, 3), st.integers(0, 4)),
    min_size=2,
    max_size=7,
)
RHO = st.sampled_from([0.0, 0.1, 0.25, 0.32, 0.4, 0.5, 1.0])
COUNT = st.integers(0, 200)


def candidates(rows: list[tuple[float, int, int, float]], prompt: str = "p") -> pl.DataFrame:
    """Rows (score, tokens, valid_votes, variance); the candidate's id is its index."""
    data = pl.DataFrame(rows, schema=["score", "tokens", "valid_votes", "variance"], orient="row", strict=False)
    number = pl.int_range(data.height)
    return data.with_columns(
        pl.lit(prompt).alias("prompt_id"), number.cast(pl.String).alias("candidate_id"), draw=number
    )


def select(rows: list[tuple[float, int, int, float]], rho: float) -> tuple[int, int]:
    row = actor_members(candidates(rows), rho).row(0, named=True)
    return int(row["chosen_candidate_id"]), int(row["rejected_candidate_id"])


@settings(deadline=None)
@given(CANDIDATES, RHO)
def test_windows_are_the_papers(rows: list[tuple[float, int, int, float]], rho: float) -> None:
    scores = [row[0] for row in rows]
    low, high = min(scores), max(scores)
    chosen, rejected = select(rows, rho)
    top = [row for row in rows if row[0] >= (1 - rho) * high + rho * low - 1e-9]
    bottom = [row for row in rows if row[0] <= (1 - rho) * low + rho * high + 1e-9]
    assert rows[chosen] in top
    assert rows[rejected] in bottom
    if rho == 0:
        assert (scores[chosen], scores[rejected]) == (high, low)
    else:
        assert rows[chosen][1] == min(row[1] for row in top)
        assert rows[rejected][1] == max(row[1] for row in bottom)


@settings(deadline=None)
@given(CANDIDATES, RHO, st.randoms())
def test_row_order_and_other_prompts_do_not_matter(rows: list, rho: float, random: object) -> None:
    both = pl.concat([candidates(rows, "p"), candidates(rows[::-1], "q")])
    order = list(range(both.height))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert actor_members(both[order], rho).equals(actor_members(both, rho))
    assert actor_members(both, rho).filter(pl.col("prompt_id") == "p").equals(actor_members(candidates(rows), rho))


def test_length_decides_inside_the_window_only() -> None:
    rows = [(5.0, 90, 3, 0), (4.0, 40, 3, 0), (3.0, 10, 3, 0), (2.0, 80, 3, 0), (0.0, 20, 3, 0)]
    assert select(rows, 0) == (0, 4)
    assert select(rows, 0.2) == (1, 4)  # windows [4, 5] and [0, 1]
    assert select(rows, 0.4) == (2, 3)  # windows [3, 5] and [0, 2]


def test_a_lone_vote_does_not_pass_for_a_sure_one() -> None:
    rows = [(4.0, 5, 1, 0.0), (4.0, 5, 3, 0.5), (1.0, 5, 1, 0.0), (1.0, 5, 3, 0.2), (1.0, 5, 3, 0.1)]
    assert select(rows, 0) == (1, 4)


def test_length_does_not_decide_without_length_control() -> None:
    assert select([(4.0, 50, 3, 0.1), (4.0, 5, 3, 0.2), (1.0, 5, 3, 0.1), (1.0, 50, 3, 0.2)], 0) == (0, 2)


def rated(ratings: list[float]) -> pl.DataFrame:
    votes = list(range(len(ratings)))
    data = pl.DataFrame({"vote": votes, "rating": map(float, ratings), "draw": votes, "battles": [2] * len(ratings)})
    return data.with_columns(prompt_id=pl.lit("p"), candidate_id=pl.lit("c"))


def test_judge_members_are_the_ends_whatever_lies_between() -> None:
    row = judge_members(rated([1000, 1100, 1000, 900])).row(0, named=True)
    assert (row["chosen_vote"], row["rejected_vote"], row["gap"]) == (1, 3, 200)


def test_equals_at_an_end_are_drawn_despite_rounding() -> None:
    row = judge_members(rated([900, 1100, 1100 + 1e-9])).row(0, named=True)
    assert (row["chosen_vote"], row["rejected_vote"]) == (1, 0)


@settings(deadline=None)
@given(COUNT, COUNT, st.floats(0, 1))
def test_shares_drop_no_actor_pair_and_come_nearest(actor: int, judge: int, share: float) -> None:
    used_actor, used_judge = shares(actor, judge, share, None)
    assert used_actor == (actor if share < 1 else 0)
    assert 0 <= used_judge <= judge
    assume(actor and share < 1)
    error = abs(used_judge / (used_judge + actor) - share)
    assert all(error <= abs(other / (other + actor) - share) + 1e-12 for other in range(judge + 1))


@settings(deadline=None)
@given(COUNT, COUNT, st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), st.integers(1, 150))
def test_shares_keep_the_budget_and_the_share(actor: int, judge: int, share: float, max_pairs: int) -> None:
    free = shares(actor, judge, share, None)
    used = shares(actor, judge, share, max_pairs)
    assert sum(used) == min(max_pairs, sum(free))
    if sum(free) > max_pairs and judge >= max_pairs:
        assert abs(used[1] - share * max_pairs) <= 0.5


def test_shares_of_plain_cases() -> None:
    assert shares(80, 100, 0.2, None) == (80, 20)
    assert shares(80, 5, 0.2, None) == (80, 5)
    assert shares(80, 100, 0.0, None) == (80, 0)
    assert shares(80, 100, 1.0, None) == (0, 100)
    assert shares(80, 100, 0.2, 50) == (40, 10)


@settings(deadline=None)
@given(st.lists(st.sampled_from([1.0, 2.0, 5.0]), max_size=30), st.integers(0, 30))
def test_balanced_differs_by_one_between_classes_that_last(classes: list[float], count: int) -> None:
    size = len(classes)
    data = pl.DataFrame({"class": classes, "draw": range(size), "prompt_id": [f"{i:02}" for i in range(size)]},
                        schema={"class": pl.Float64, "draw": pl.Int64, "prompt_id": pl.String})  # fmt: skip
    taken = balanced(data, count)["class"].to_list()
    assert len(taken) == min(count, size)
    lasting = [taken.count(c) for c in set(classes) if taken.count(c) < classes.count(c)]
    assert all(taken.count(c) <= least + 1 for least in lasting for c in set(classes))


def outcomes(prefix: str, count: int) -> pl.DataFrame:
    schema = {"prompt_id": pl.String, "reason": pl.String, "detail": pl.String, "class": pl.Float64, "draw": pl.Int64}
    rows = [(f"{prefix}{i:03}", "tie" if i % 3 == 0 else None, "equal" if i % 3 == 0 else None, i % 2, i * 7919 % 101)
            for i in range(count)]  # fmt: skip
    return pl.DataFrame(rows, schema=schema, orient="row", strict=False)


def test_mix_gives_budget_to_what_it_leaves_out_and_keeps_other_reasons() -> None:
    actor, judge = outcomes("a", 60), outcomes("j", 60)
    mixed_actor, mixed_judge = mix(actor, judge, 0.2, 20)
    assert mixed_actor["reason"].value_counts(sort=True).rows() == [("budget", 24), ("tie", 20), (None, 16)]
    assert mixed_judge["reason"].value_counts(sort=True).rows() == [("budget", 36), ("tie", 20), (None, 4)]
    kept = mixed_judge.filter(pl.col("reason").is_null())
    assert kept["class"].value_counts()["count"].to_list() == [2, 2]
    again = mix(actor.reverse(), judge.reverse(), 0.2, 20)
    assert again[1].sort("prompt_id").equals(mixed_judge.sort("prompt_id"))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_mix_loses_no_row(share: float) -> None:
    for before, after in zip((outcomes("a", 9), outcomes("j", 9)), mix(outcomes("a", 9), outcomes("j", 9), share, None),
                             strict=True):  # fmt: skip
        assert after["prompt_id"].to_list() == before["prompt_id"].to_list()
