"""Ranked answers with the scores that a judge gave them, drawn at random, and what `agreement` says of them."""

from typing import Any

import polars as pl
from hypothesis import strategies as st

from stages.algorithms.agreement import Rule, agreement

Scores = dict[int, list[float | None]]
"""Scores of each answer, by vote; a null did not parse."""
Judged = tuple[list[int], Scores]
"""Ranks of a prompt's answers, and their scores."""


def frames(prompts: dict[str, Judged]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The answers and the votes that `agreement` takes."""
    answers = [
        {"prompt_id": key, "candidate_id": f"{key}-{number}", "rank": rank}
        for key, (ranks, _) in prompts.items()
        for number, rank in enumerate(ranks)
    ]
    votes = [
        {"prompt_id": key, "candidate_id": f"{key}-{number}", "vote": vote, "score": score,
         "parse_status": "no_match" if score is None else "ok"}
        for key, (_, scores) in prompts.items()
        for number, given_scores in scores.items()
        for vote, score in enumerate(given_scores)
    ]  # fmt: skip
    schema = {"prompt_id": pl.String, "candidate_id": pl.String}
    votes_schema = {**schema, "vote": pl.Int64, "score": pl.Float64, "parse_status": pl.String}
    return pl.DataFrame(answers, {**schema, "rank": pl.Int64}), pl.DataFrame(votes, votes_schema)


def reasons(
    prompts: dict[str, Judged], rule: Rule, tolerance: float = 0.0, ties: bool = False
) -> dict[tuple[str, int], str]:
    """Reason (`kept` if none) of each judgement by candidate and vote."""
    found = agreement(*frames(prompts), rule, tolerance, ties)
    return {(key, vote): reason or "kept" for key, vote, reason in found["candidate_id", "vote", "reason"].iter_rows()}


SCORE = st.none() | st.sampled_from([0.0, 1.0, 2.0, 2.5, 3.0, 4.0, 5.0])
PROMPT = st.integers(1, 4).flatmap(
    lambda answers: st.tuples(
        st.lists(st.integers(0, 2), min_size=answers, max_size=answers),
        st.lists(st.lists(SCORE, max_size=3), min_size=answers, max_size=answers).map(
            lambda scores: dict(enumerate(scores))
        ),
    )
)
PROMPTS_JUDGED = st.lists(PROMPT, min_size=1, max_size=3).map(
    lambda prompts: {f"p{number}": prompt for number, prompt in enumerate(prompts)}
)
RULE: Any = st.sampled_from(["order", "pairs"])
