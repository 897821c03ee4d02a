"""Verdicts to ratings: battles with position weights, and the Elo (Bradley-Terry) maximum-likelihood estimate."""

from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages.errors import StageError

Floats = NDArray[np.float64]
PositionWeights = Literal["paper", "none", "agreement"]

MEAN = 1000.0
SCALE = 400 / np.log(10)
"""Elo points per unit of log-odds: 400 points are odds of ten to one."""
_MAX_STEPS = 1000
_CANDIDATE = ["prompt_id", "candidate_id"]


def slot_weights(battles: pl.DataFrame) -> tuple[float, float]:
    """(w1, w2): what a win from the first and from the second slot weighs; each is the other slot's share of wins.

    w1 = win_2nd / (win_1st + win_2nd), w2 = win_1st / (win_1st + win_2nd) over all `battles` of the iteration
    (Meta-Rewarding, section 2.2); one half each where nobody won.
    """
    first = battles.filter(pl.col("winner") == "a").height
    second = battles.filter(pl.col("winner") == "b").height
    return (second / (first + second), first / (first + second)) if first + second else (0.5, 0.5)


def flip_rate(battles: pl.DataFrame) -> float | None:
    """Share of pairs whose winner changes with the order; None if no pair parsed in both orders."""
    both = _by_pair(battles).filter(pl.col("verdicts") == 2)
    return None if both.is_empty() else float((both["low_wins"] == 1).sum()) / both.height


def wins(battles: pl.DataFrame, weights: PositionWeights) -> pl.DataFrame:
    """Rows `prompt_id`, `candidate_id`, `winner`, `loser` (vote numbers), `weight` that sum to the matrix B.

    `paper`: B_mn = w1 [m beats n from the first slot] + w2 [m beats n from the second slot] with `slot_weights`;
    `none`: the same with w1 = w2 = 1; `agreement`: 1 for winning both orders, otherwise a tie: one half each way.
    Verdicts that did not parse count for nobody.
    """
    if weights == "agreement":
        return _agreed(battles)
    first, second = slot_weights(battles) if weights == "paper" else (1.0, 1.0)
    from_first = battles.filter(pl.col("winner") == "a").select(
        *_CANDIDATE, pl.col("vote_a").alias("winner"), pl.col("vote_b").alias("loser"), pl.lit(first).alias("weight")
    )
    from_second = battles.filter(pl.col("winner") == "b").select(
        *_CANDIDATE, pl.col("vote_b").alias("winner"), pl.col("vote_a").alias("loser"), pl.lit(second).alias("weight")
    )
    return pl.concat([from_first, from_second])


def rate(battles: pl.DataFrame, weights: PositionWeights, prior: float) -> pl.DataFrame:
    """Rows of table `ratings` for every judgement that occurs in `battles`, vectorised over the candidates.

    Candidates with the same number of judgements are solved in one batch by `bradley_terry`.
    """
    fought = wins(battles, weights)
    players = _players(battles)
    parts = [players.clear().with_columns(rating=pl.lit(MEAN), wins=pl.lit(0.0), losses=pl.lit(0.0))]
    for (size,), group in players.group_by("size", maintain_order=True):
        matrices = _matrices(group, fought, int(size))
        strengths = bradley_terry(matrices, prior)
        parts.append(
            group.with_columns(
                pl.Series("rating", MEAN + SCALE * strengths.ravel()),
                pl.Series("wins", matrices.sum(axis=2).ravel()),
                pl.Series("losses", matrices.sum(axis=1).ravel()),
            )
        )
    return pl.concat(parts).select(*_CANDIDATE, "vote", "rating", "wins", "losses", "battles").sort(*_CANDIDATE, "vote")


def bradley_terry(won: Floats, prior: float) -> Floats:
    """Strengths (C, k) in log-odds, mean 0, of the k players of each of C tournaments; converged to 1e-9.

    `won[c, m, n]` is the weight of wins of m over n. Maximises sum over m, n of won_mn log sigmoid(e_m - e_n) with a
    virtual tie of weight `prior` (half a win each way) between any two players, which keeps the maximum finite and
    unique. Newton's method; a step that moves two players apart by more than one log-odds is shortened to that, which
    for logistic losses always gains (self-concordance: Bach 2010, Electronic Journal of Statistics 4).
    """
    players = won.shape[-1]
    won = won + prior / 2 * (1 - np.eye(players))
    total = won + won.swapaxes(1, 2)
    strength = np.zeros(won.shape[:2])
    for _ in range(_MAX_STEPS):
        winning = _sigmoid(strength[:, :, None] - strength[:, None, :])
        losing = winning.swapaxes(1, 2)
        gradient = (won * losing - won.swapaxes(1, 2) * winning).sum(axis=2)
        weight = total * winning * losing
        degree = weight.sum(axis=2)
        # The Laplacian is singular along (1, ..., 1); a matrix of ones there pins the mean without moving the rest.
        pin = degree.mean(axis=1)[:, None, None] / players
        step = np.linalg.solve(np.eye(players) * degree[:, :, None] - weight + pin, gradient[:, :, None])[:, :, 0]
        reach = np.ptp(step, axis=1)
        strength += step / np.maximum(1, reach)[:, None]
        if reach.max() < 1e-9:
            return strength - strength.mean(axis=1, keepdims=True)
    raise StageError(f"ratings did not converge in {_MAX_STEPS} steps with --prior {prior:g}; choose a larger prior")


def _sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def _players(battles: pl.DataFrame) -> pl.DataFrame:
    """Every judgement in `battles`, sorted, with its index among its candidate's judgements and their number."""
    parsed = pl.col("winner").is_not_null().cast(pl.Int64).alias("battles")
    sides = [battles.select(*_CANDIDATE, pl.col(side).alias("vote"), parsed) for side in ("vote_a", "vote_b")]
    return (
        pl.concat(sides)
        .group_by(*_CANDIDATE, "vote")
        .agg(pl.col("battles").sum())
        .sort(*_CANDIDATE, "vote")
        .with_columns(
            pl.int_range(pl.len()).over(_CANDIDATE).alias("player"),
            pl.len().over(_CANDIDATE).alias("size"),
        )
    )


def _matrices(players: pl.DataFrame, fought: pl.DataFrame, size: int) -> Floats:
    """B (C, k, k) of the candidates in `players`, in their order."""
    row = pl.int_range(pl.len()) // size
    index = players.select(*_CANDIDATE, "vote", "player", row.alias("row"))
    keys = [*_CANDIDATE, "vote"]
    cells = fought.join(index, left_on=[*_CANDIDATE, "winner"], right_on=keys).join(
        index.drop("row"), left_on=[*_CANDIDATE, "loser"], right_on=keys, suffix="_loser"
    )
    cells = cells.sort("row", "player", "player_loser", "weight")
    matrices = np.zeros((players.height // size, size, size))
    at = tuple(cells[name].to_numpy() for name in ("row", "player", "player_loser"))
    np.add.at(matrices, at, cells["weight"].to_numpy())
    return matrices


def _by_pair(battles: pl.DataFrame) -> pl.DataFrame:
    """One row per unordered pair with a parsed verdict: votes `low` < `high`, `verdicts` (1 or 2), `low_wins`."""
    winner = pl.when(pl.col("winner") == "a").then("vote_a").otherwise("vote_b")
    return (
        battles.filter(pl.col("winner").is_not_null())
        .with_columns(low=pl.min_horizontal("vote_a", "vote_b"), high=pl.max_horizontal("vote_a", "vote_b"))
        .group_by(*_CANDIDATE, "low", "high")
        .agg(verdicts=pl.len(), low_wins=(winner == pl.col("low")).sum())
    )


def _agreed(battles: pl.DataFrame) -> pl.DataFrame:
    pairs = _by_pair(battles)
    low_won = (pl.col("verdicts") == 2) & (pl.col("low_wins") == 2)
    high_won = (pl.col("verdicts") == 2) & (pl.col("low_wins") == 0)
    low_weight = pl.when(low_won).then(1.0).when(high_won).then(0.0).otherwise(0.5)
    sides = [
        pairs.select(
            *_CANDIDATE, pl.col("low").alias("winner"), pl.col("high").alias("loser"), low_weight.alias("weight")
        ),
        pairs.select(
            *_CANDIDATE, pl.col("high").alias("winner"), pl.col("low").alias("loser"), (1 - low_weight).alias("weight")
        ),
    ]
    return pl.concat(sides)
