"""The mix: how many pairs of each kind are trained on, which ones, and the reasons of those that are not."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

Counts = NDArray[np.int64]
_OUTCOME = ("prompt_id", "pair")
_ROUNDING = 1e-9


def shares(actor: int, judge: Counts, judge_share: float, max_pairs: int | None) -> tuple[int, int]:
    """How many actor and judge pairs to use, for `judge / (actor + judge)` nearest to `judge_share`.

    `actor` pairs are available; `judge` lists the numbers of judge pairs that could be used, with 0 among them. Actor
    pairs are dropped only for `max_pairs` (or a share of 1); with too few judge pairs the share falls short. Of
    numbers that come equally near, that with more pairs in all, then with fewer judge pairs. Without actor pairs only
    a share of 1 uses any.
    """
    if judge_share < 1 and actor == 0:
        return 0, 0
    available = actor if judge_share < 1 else 0
    used = judge if max_pairs is None else judge[judge <= max_pairs]
    beside = np.full_like(used, available) if max_pairs is None else np.minimum(available, max_pairs - used)
    total = beside + used
    error = np.round(np.abs(used / np.maximum(total, 1) - judge_share), 12)
    best = np.lexsort((used, -total, error))[0]
    return int(beside[best]), int(used[best])


def usable(sizes: Sequence[int], max_class_share: float) -> Counts:
    """Every number of pairs, from 0, that can be taken from classes of these sizes within the cap, ascending.

    The cap is on the pairs taken: of K pairs no class gives more than max(1, floor(max_class_share * K)).
    """
    counts = np.arange(sum(sizes) + 1, dtype=np.int64)
    limit = class_limit(counts, max_class_share)
    room = sum((np.minimum(size, limit) for size in sizes), np.zeros_like(counts))
    return counts[room >= counts]


def class_limit(count: Counts, max_class_share: float) -> Counts:
    """How many of `count` pairs one class may give: its share, and at least one."""
    return np.maximum(1, np.floor(max_class_share * count + _ROUNDING)).astype(np.int64)


def in_turns(pairs: pl.DataFrame) -> pl.DataFrame:
    """`prompt_id`, `pair` and `place` (from 0) of `pairs`: the order in which the mix takes them.

    The classes take turns, each giving its pairs in the order of the draw, second pairs of a prompt after all first
    ones. Whatever number of pairs is taken, the classes are as even as they last, so that no other choice of as many
    has a smaller largest class.
    """
    turn = pl.int_range(pl.len()).over("class").alias("turn")
    ordered = pairs.sort("pair", "draw", "prompt_id").with_columns(turn).sort("turn", "draw", *_OUTCOME)
    return ordered.select(*_OUTCOME, pl.int_range(pl.len()).alias("place"))


def mix(
    actor: pl.DataFrame, judge: pl.DataFrame, judge_share: float, max_pairs: int | None, max_class_share: float = 1.0
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Outcomes of both kinds, with a reason for the pairs that the mix leaves out.

    An outcome has columns prompt_id, pair, reason (null: a pair), detail, class and draw. The judge pairs that are
    used respect `max_class_share` (see `usable`) exactly. Those that only this cap keeps out have the reason
    `class_cap`; what `judge_share` and `max_pairs` keep out, `budget`.
    """
    fit = pl.col("reason").is_null()
    available = actor.filter(fit).height
    sizes = judge.filter(fit)["class"].value_counts()["count"].to_list()
    _, uncapped = shares(available, usable(sizes, 1.0), judge_share, max_pairs)
    used_actor, used_judge = shares(available, usable(sizes, max_class_share), judge_share, max_pairs)
    limit = class_limit(np.array([used_judge]), max_class_share)[0]
    cap = f"at most {limit} of {used_judge} pairs choose a judgement with one score (max_judge_class_share)"
    budget = f"pairs used (judge_share {judge_share:g}, {f'max_pairs {max_pairs}' if max_pairs else 'no max_pairs'})"
    return (
        _leave_out(actor, used_actor, used_actor, f"{used_actor} of {available} {budget}", ""),
        _leave_out(judge, used_judge, max(used_judge, uncapped), f"{used_judge} of {sum(sizes)} {budget}", cap),
    )


def ledger(outcomes: pl.DataFrame, kind: str) -> pl.DataFrame:
    """Rows of table `pair_ledger`: the outcomes of one kind (`actor`, `judge`) that are no pairs."""
    candidate = pl.col("candidate_id") if kind == "judge" else pl.lit(None, pl.String).alias("candidate_id")
    dropped = outcomes.filter(pl.col("reason").is_not_null())
    return dropped.select(pl.lit(kind).alias("kind"), "prompt_id", "pair", candidate, "reason", "detail")


def _leave_out(outcomes: pl.DataFrame, used: int, uncapped: int, budget: str, cap: str) -> pl.DataFrame:
    """The first `used` pairs stay; those up to `uncapped` have the reason `class_cap`, all others `budget`."""
    places = in_turns(outcomes.filter(pl.col("reason").is_null()))
    rows = outcomes.join(places, on=_OUTCOME, how="left", maintain_order="left")
    over = pl.col("place") >= used
    capped = over & (pl.col("place") < uncapped)
    return rows.with_columns(
        pl.when(capped).then(pl.lit("class_cap")).when(over).then(pl.lit("budget")).otherwise("reason").alias("reason"),
        pl.when(capped).then(pl.lit(cap)).when(over).then(pl.lit(budget)).otherwise("detail").alias("detail"),
    ).drop("place")
