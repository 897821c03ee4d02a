"""Verdicts to ratings: battles with position weights, and the Elo (Bradley-Terry) maximum-likelihood estimate."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from stages.contracts.errors import StageError
from stages.tables import BATTLES, RATINGS, SCORES, VOTES

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
PositionWeights = Literal["paper", "none", "agreement"]

MEAN = 1000.0
SCALE = 400 / np.log(10)
"""Elo points per unit of log-odds: 400 points are odds of ten to one."""
_MAX_STEPS = 1000
_BATCH = 512
_TOLERANCE = 1e-9
"""Log-odds that a strength may be off."""


@dataclass(frozen=True)
class Tournaments:
    """The battles of C candidates as arrays; V is one more than the largest vote number."""

    candidates: pl.DataFrame
    """`prompt_id`, `candidate_id`, sorted: one row per tournament."""
    first: Ints
    """(C, V, V): how often m, shown first, beat n."""
    second: Ints
    """(C, V, V): how often m, shown second, beat n."""
    present: NDArray[np.bool_]
    """(C, V): whether there is a battle of m, decided or not."""

    @property
    def won(self) -> Ints:
        """(C, V, V): how often m beat n."""
        return self.first + self.second


def slot_weights(battles: pl.DataFrame) -> tuple[float, float]:
    """(w1, w2): what a win from the first and from the second slot weighs; each is the other slot's share of wins.

    w1 = win_2nd / (win_1st + win_2nd), w2 = win_1st / (win_1st + win_2nd) over all `battles` of the iteration
    (Meta-Rewarding, section 2.2); one half each where nobody won.
    """
    return _slot_weights(*(int((battles["winner"] == winner).sum()) for winner in ("a", "b")))


def flip_rate(battles: pl.DataFrame) -> float | None:
    """Share of pairs whose winner changes with the order; None if no pair parsed in both orders."""
    won = tabulate(battles).won
    twice = np.triu(won + won.swapaxes(1, 2)) == 2
    return float((won[twice] == 1).mean()) if twice.any() else None


def tabulate(battles: pl.DataFrame) -> Tournaments:
    """Count the battles: rows of table `battles`, in any order."""
    candidates, row = _numbered(battles)
    a, b = (battles[f"vote_{slot}"].to_numpy() for slot in ("a", "b"))
    votes = int(max(a.max(), b.max())) + 1 if len(a) else 0
    shape = 3, len(candidates), votes, votes
    outcome = pl.when(pl.col("winner") == "a").then(0).when(pl.col("winner") == "b").then(1).otherwise(2)
    cell = np.ravel_multi_index((battles.select(outcome).to_series().to_numpy(), row, a, b), shape)
    shown = np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape)
    met = shown.sum(axis=0)
    present = met.sum(axis=2) + met.sum(axis=1) > 0
    return Tournaments(candidates, shown[0], shown[1].swapaxes(1, 2), present)


def battle_matrix(tournaments: Tournaments, weights: PositionWeights) -> Floats:
    """B (C, V, V): the weight of the wins of m over n.

    `paper`: B_mn = w1 [m beats n from the first slot] + w2 [m beats n from the second slot] with `slot_weights`;
    `none`: the same with w1 = w2 = 1; `agreement`: 1 for winning both orders, otherwise a tie: one half each way.
    Verdicts that did not parse count for nobody.
    """
    first, second = tournaments.first, tournaments.second
    if weights == "agreement":
        won = tournaments.won
        lost = won.swapaxes(1, 2)
        return np.where(won + lost == 0, 0.0, np.where(won == 2, 1.0, np.where(lost == 2, 0.0, 0.5)))
    w1, w2 = _slot_weights(int(first.sum()), int(second.sum())) if weights == "paper" else (1.0, 1.0)
    return w1 * first + w2 * second


def higher_score_wins(battles: pl.DataFrame, votes: pl.DataFrame) -> float | None:
    """Share of the decided battles between unequal scores that the higher score won; None if there are none.

    `votes` has the keys and scores of table `votes`. Near 1 the meta-judge only repeats the scores, a sign of collapse
    in Meta-Rewarding.
    """
    scored = battles.filter(pl.col("winner").is_not_null()).select(*BATTLES.key, "winner")
    for slot in ("a", "b"):
        names = {"vote": f"vote_{slot}", "score": f"score_{slot}"}
        side = votes.select(*VOTES.key, "score").rename(names)
        scored = scored.join(side, on=[*SCORES.key, f"vote_{slot}"], validate="m:1")
    unequal = scored.filter(pl.col("score_a") != pl.col("score_b"))
    higher = (pl.col("winner") == "a") == (pl.col("score_a") > pl.col("score_b"))
    return None if unequal.is_empty() else float(unequal.select(higher.mean()).item())


def rate(battles: pl.DataFrame, weights: PositionWeights, prior: float) -> pl.DataFrame:
    """Rows of table `ratings` for every judgement that occurs in `battles`, vectorised over the candidates.

    Candidates with the same number of judgements are solved in batches by `bradley_terry`.
    """
    tournaments = tabulate(battles)
    won, present = battle_matrix(tournaments, weights), tournaments.present
    strengths = np.zeros(present.shape)
    sizes = present.sum(axis=1)
    for rows in _batches(sizes):
        size = sizes[rows[0]]
        if size == present.shape[1]:
            strengths[rows] = bradley_terry(won[rows], prior)
            continue
        players = np.nonzero(present[rows])[1].reshape(len(rows), size)
        batch = won[rows[:, None, None], players[:, :, None], players[:, None, :]]
        strengths[rows[:, None], players] = bradley_terry(batch, prior)
    row, vote = np.nonzero(present)
    total = tournaments.won
    decided = total.sum(axis=2) + total.sum(axis=1)
    rated = tournaments.candidates[row].with_columns(
        pl.Series("vote", vote, dtype=pl.Int64),
        pl.Series("rating", MEAN + SCALE * strengths[present], dtype=pl.Float64),
        pl.Series("wins", won.sum(axis=2)[present], dtype=pl.Float64),
        pl.Series("losses", won.sum(axis=1)[present], dtype=pl.Float64),
        pl.Series("battles", decided[present], dtype=pl.Int64),
    )
    return rated.join(_alike(battles), on=RATINGS.key, how="left", maintain_order="left").with_columns(
        pl.col("alike").fill_null(0)
    )


def _alike(battles: pl.DataFrame) -> pl.DataFrame:
    """How many comparisons of each judgement were not asked for because both said the same."""
    unasked = battles.filter(pl.col("parse_status") == "alike")
    sides = pl.concat(unasked.select(*SCORES.key, vote=side) for side in ("vote_a", "vote_b"))
    return sides.group_by(RATINGS.key).agg(alike=pl.len().cast(pl.Int64))


def bradley_terry(won: Floats, prior: float) -> Floats:
    """Strengths (C, k) in log-odds, mean 0, of the k players of each of C tournaments; converged to 1e-9.

    `won[c, m, n]` is the weight of wins of m over n. Maximises sum over m, n of won_mn log sigmoid(e_m - e_n) with a
    virtual tie of weight `prior` (half a win each way) between any two players, which keeps the maximum finite and
    unique. Newton's method; a step that moves two players apart by more than one log-odds is shortened to that, which
    for logistic losses always gains (self-concordance: Bach 2010, Electronic Journal of Statistics 4). The start, each
    player's log-odds of winning against whom it met, is near where everybody met everybody.

    A full step that moves players apart by r leaves at most k r^2 to go, which is how convergence is told: the next
    step is a weighted least-squares fit of potentials to residuals of at most r^2 / 2 on the pairs, thus a weighted
    mean of its spanning-tree solutions, whose paths have fewer than k pairs. Whoever has converged takes no part.
    """
    players = won.shape[-1]
    m, n = np.triu_indices(players, 1)
    # A pair's row has 1 at m and -1 at n: times strengths it is their differences, and of flows it sums the net wins.
    # The last player stays where it is: only differences count, and without it the Laplacian is not singular.
    incidence = np.zeros((len(m), players))
    incidence[np.arange(len(m)), m], incidence[np.arange(len(m)), n] = 1, -1
    free = incidence[:, :-1]
    laplacians = (free[:, :, None] * free[:, None, :]).reshape(len(m), -1)
    up, down = won[:, m, n] + prior / 2, won[:, n, m] + prior / 2
    first, second = np.maximum(incidence, 0), np.maximum(-incidence, 0)
    strength = np.log((up @ first + down @ second) / (down @ first + up @ second))
    active, total = np.arange(len(won)), up + down
    for _ in range(_MAX_STEPS):
        winning, losing = _sigmoids(strength[active] @ incidence.T)
        gradient = (up * losing - down * winning) @ free
        curvature = (total * winning * losing @ laplacians).reshape(-1, players - 1, players - 1)
        step = np.linalg.solve(curvature, gradient[:, :, None])[:, :, 0]
        reach = step.max(axis=1, initial=0) - step.min(axis=1, initial=0)
        strength[active, :-1] += step / np.maximum(1, reach)[:, None]
        moving = players * reach**2 >= _TOLERANCE
        if not moving.any():
            return strength - strength.mean(axis=1, keepdims=True)
        active, up, down, total = active[moving], up[moving], down[moving], total[moving]
    raise StageError(f"ratings did not converge in {_MAX_STEPS} steps with --prior {prior:g}; choose a larger prior")


def _sigmoids(x: Floats) -> tuple[Floats, Floats]:
    """sigmoid(x) and sigmoid(-x), each to full relative precision."""
    with np.errstate(over="ignore", divide="ignore"):
        odds = np.exp(x)
        return 1 / (1 + 1 / odds), 1 / (1 + odds)


def _batches(sizes: Ints) -> Iterator[Ints]:
    """Indices of tournaments of one size each, as many at a time as stay in a processor's cache."""
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        yield from (rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH))


def _slot_weights(first: float, second: float) -> tuple[float, float]:
    return (second / (first + second), first / (first + second)) if first + second else (0.5, 0.5)


def _numbered(battles: pl.DataFrame) -> tuple[pl.DataFrame, Ints]:
    """The candidates in `battles`, sorted, and the number of each battle's candidate among them.

    Only the first battle of a run of the same candidate is looked up: tables come sorted, but need not.
    """
    new = pl.any_horizontal(pl.col(*SCORES.key) != pl.col(*SCORES.key).shift()).fill_null(True)
    starts = battles.select(new).to_series()
    runs = battles.filter(starts).select(SCORES.key)
    candidates = runs.unique().sort(SCORES.key)
    number = candidates.with_row_index("number").with_columns(pl.col("number").cast(pl.Int64))
    of_run = runs.join(number, on=SCORES.key, how="left", maintain_order="left")["number"].to_numpy()
    return candidates, of_run[np.cumsum(starts.to_numpy()) - 1]
