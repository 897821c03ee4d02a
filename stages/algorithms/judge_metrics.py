"""How good a judge and a meta-judge are, from judged test answers whose ranks are known: tables in, numbers out.

Every number is a sum over a weight of each prompt, since what belongs to a prompt is not independent; definitions are
in `docs/metrics.md`.
"""

import numpy as np
import polars as pl

from stages.algorithms.draws import draws
from stages.algorithms.prompt_parts import Parts, Row, estimates
from stages.algorithms.statistics import (
    CORRELATION,
    SHARE,
    Bounds,
    Estimate,
    beats,
    best_with_top_score,
    calibration_error,
    in_exact_order,
    pairs_in_order,
    rank_correlations,
)
from stages.config import ScoreSection
from stages.contracts.ids import Seeds
from stages.tables import META_EVALUATIONS, SCORES, VOTES

_PAIR = [*SCORES.key, pl.min_horizontal("vote_a", "vote_b").alias("first"), pl.max_horizontal("vote_a", "vote_b")]
_SAME_ERROR = 1e-9


def judge_metrics(judged: pl.DataFrame, votes: pl.DataFrame, settings: ScoreSection) -> list[Row]:
    """SUMMARY rows, without the model's number, from rows of JUDGE_EVALUATIONS and their rows of VOTES.

    An answer without a score takes the lowest place, whatever its votes: the judge failed on it. Prompts whose answers
    all have the same rank say nothing about order.
    """
    given = _votes_by_candidate(_of_scored(votes, judged))
    prompts = judged.sort(SCORES.key).partition_by("prompt_id", maintain_order=True)
    ranked = [prompt for prompt in prompts if prompt["rank"].n_unique() > 1]
    asked = votes.sort("prompt_id").partition_by("prompt_id", maintain_order=True)
    rows = estimates([_order(prompt, settings.high) for prompt in ranked])
    rows += estimates([_scores(prompt, Bounds(settings.low, settings.high)) for prompt in prompts])
    rows += estimates([{"judge_parse_rate": (prompt["score"].count(), prompt.height, SHARE)} for prompt in asked])
    chances = [known for prompt in ranked if (known := _chances(prompt, given))]
    return rows + _calibration("judge_calibration", [chance for known in chances for chance in known], len(chances))


def vote_errors(votes: pl.DataFrame, judged: pl.DataFrame, settings: ScoreSection) -> pl.DataFrame:
    """`prompt_id`, `candidate_id`, `vote`, `error` of every valid vote on an answer with a score, where the error is
    known; less is better.

    The distance from the reference score where the answer has one; otherwise how many other answers of the prompt, of
    another rank, the vote puts on the wrong side of their mean score (a tie is one half).
    """
    answers = judged.with_columns(pl.col("score").fill_null(settings.low - 1))
    others = answers.select("prompt_id", other="candidate_id", other_rank="rank", other_score="score")
    given = _of_scored(votes, judged).select(*SCORES.key, "vote", "score")
    known = given.join(answers.select(*SCORES.key, "rank", "quality"), on=SCORES.key, validate="m:1")
    agreement = (pl.col("score") - pl.col("other_score")).sign() * (pl.col("other_rank") - pl.col("rank")).sign()
    wrong = (
        known.join(others, on="prompt_id")
        .filter(pl.col("candidate_id") != pl.col("other"), pl.col("rank") != pl.col("other_rank"))
        .group_by(VOTES.key)
        .agg(wrong=((1 - agreement) / 2).sum())
    )
    return (
        known.join(wrong, on=VOTES.key, how="left", validate="1:1")
        .with_columns(error=pl.coalesce((pl.col("score") - pl.col("quality")).abs(), "wrong"))
        .filter(pl.col("error").is_not_null())
        .select(*SCORES.key, "vote", "error")
        .sort(VOTES.key)
    )


def known_comparisons(errors: pl.DataFrame, hidden: pl.DataFrame, count: int, seeds: Seeds) -> pl.DataFrame:
    """At most `count` pairs of votes on the same answer of which one has the smaller error, each in both orders.

    `errors` are of `vote_errors`; `hidden` has `candidate_id`, `vote` and `text`, the judgement with its score hidden:
    pairs that differ in nothing else are left out. Drawn, and one pair of every answer before a second one of any.
    Rows: keys of META_EVALUATIONS, `better` (`a` or `b`), `judgement_a`, `judgement_b`.
    """
    shown = errors.join(hidden, on=["candidate_id", "vote"], validate="1:1")
    pairs = shown.join(shown, on=SCORES.key, suffix="_b").filter(
        pl.col("vote") < pl.col("vote_b"),
        (pl.col("error") - pl.col("error_b")).abs() > _SAME_ERROR,
        pl.col("text") != pl.col("text_b"),
    )
    drawn = pairs.with_columns(draws(pairs, ["candidate_id", "vote", "vote_b"], seeds, "evaluate.meta_judge"))
    turn = pl.col("draw").rank("ordinal").over("candidate_id")
    chosen = drawn.with_columns(turn=turn).sort("turn", "draw", "candidate_id").head(count)
    first_better = pl.col("error") < pl.col("error_b")
    orders = [("vote", "text", "vote_b", "text_b", first_better), ("vote_b", "text_b", "vote", "text", ~first_better)]
    return pl.concat(
        chosen.select(
            *SCORES.key,
            pl.col(vote).alias("vote_a"),
            pl.col(other).alias("vote_b"),
            pl.when(better).then(pl.lit("a")).otherwise(pl.lit("b")).alias("better"),
            pl.col(text).alias("judgement_a"),
            pl.col(other_text).alias("judgement_b"),
        )
        for vote, text, other, other_text, better in orders
    ).sort(META_EVALUATIONS.key)


def meta_metrics(compared: pl.DataFrame) -> list[Row]:
    """SUMMARY rows without the model's number, from rows of META_EVALUATIONS. A verdict that did not parse is wrong."""
    right = (pl.col("winner") == pl.col("better")).fill_null(False)
    parsed = pl.col("winner").is_not_null()
    both = (
        compared.filter(parsed)
        .group_by(_PAIR)
        .agg(verdicts=pl.len(), chance=right.mean(), slots=pl.col("winner").n_unique())
        .filter(pl.col("verdicts") == 2)
        .sort(*SCORES.key, "first")
    )
    verdicts = compared.group_by("prompt_id").agg(
        accuracy=right.sum(), verdicts=pl.len(), first_slot=(pl.col("winner") == "a").sum(), parsed=parsed.sum()
    )
    flips = both.group_by("prompt_id").agg(flips=(pl.col("slots") == 1).sum(), pairs=pl.len())
    rows = estimates(
        {
            "meta_accuracy": (row["accuracy"], row["verdicts"], SHARE),
            "meta_first_slot": (row["first_slot"], row["parsed"], SHARE),
            "meta_flip": (row["flips"] or 0, row["pairs"] or 0, SHARE),
        }
        for row in verdicts.join(flips, on="prompt_id", how="left").sort("prompt_id").iter_rows(named=True)
    )
    return rows + _calibration("meta_calibration", both["chance"].to_list(), flips.height)


def accuracy_parts(judged: pl.DataFrame) -> dict[str, Parts]:
    """What each prompt adds to `judge_accuracy`, by prompt id, from rows of JUDGE_EVALUATIONS; nothing where all ranks
    are equal."""
    prompts = judged.sort(SCORES.key).group_by("prompt_id", maintain_order=True)
    return {
        str(prompt_id): {"judge_accuracy": (*pairs_in_order(*_scores_and_ranks(prompt)), SHARE)}
        for (prompt_id,), prompt in prompts
        if prompt["rank"].n_unique() > 1
    }


def _order(prompt: pl.DataFrame, top: float) -> Parts:
    """Whether the scores order the answers of one prompt as its ranks do."""
    scores, ranks = _scores_and_ranks(prompt)
    spearman, kendall = rank_correlations(scores, ranks)
    return {
        "judge_accuracy": (*pairs_in_order(scores, ranks), SHARE),
        "judge_five_best": (*best_with_top_score(scores, ranks, top), SHARE),
        "judge_exact_order": (float(in_exact_order(scores, ranks)), 1, SHARE),
        "judge_spearman": (spearman, 1, CORRELATION),
        "judge_kendall": (kendall, 1, CORRELATION),
    }


def _scores_and_ranks(prompt: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return prompt["score"].fill_null(np.nan).to_numpy(), prompt["rank"].to_numpy()


def _scores(prompt: pl.DataFrame, scale: Bounds) -> Parts:
    known = prompt.filter(pl.col("quality").is_not_null())
    exact = known.filter(pl.col("score").is_not_null(), pl.col("first_score") == pl.col("quality"))
    return {
        "judge_exact": (exact.height, known.height, SHARE),
        "judge_score": (float(prompt["score"].sum()), prompt["score"].count(), scale),
    }


def _chances(prompt: pl.DataFrame, given: dict[str, np.ndarray]) -> list[float]:
    """Of each pair of unequal rank, the probability that the votes give to the true order; none without any votes."""
    answers = [(rank, given.get(key, np.empty(0))) for key, rank in prompt.select("candidate_id", "rank").iter_rows()]
    pairs = [(votes, others) for rank, votes in answers for other, others in answers if rank < other]
    return [beats(votes, others) for votes, others in pairs if len(votes) or len(others)]


def _of_scored(votes: pl.DataFrame, judged: pl.DataFrame) -> pl.DataFrame:
    """The valid votes on answers that have a score."""
    scored = judged.filter(pl.col("score").is_not_null())
    return votes.filter(pl.col("score").is_not_null()).join(scored, on=SCORES.key, how="semi")


def _votes_by_candidate(votes: pl.DataFrame) -> dict[str, np.ndarray]:
    return {key: np.array(scores) for key, scores in votes.group_by("candidate_id").agg("score").iter_rows()}


def _calibration(metric: str, chances: list[float], prompts: int) -> list[Row]:
    if not chances:
        return []
    return [{"metric": metric, **Estimate(calibration_error(np.array(chances)), None, None, prompts)._asdict()}]
