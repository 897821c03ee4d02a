"""An iteration in numbers: sizes, lengths, scores, pairs, training."""

from typing import Any

import polars as pl

from stages.inspection.run_folder import RunFolder

Numbers = dict[str, float | int | None]
NAMES = {
    "prompts": "prompts",
    "candidates": "candidates",
    "candidate_tokens": "mean tokens of a candidate",
    "cut_share": "share of candidates cut at the token limit",
    "checks_passed": "share of checks passed",
    "judgement_tokens": "mean tokens of a judgement",
    "parsed_share": "share of judgements that parsed",
    "score": "mean score of a candidate",
    "score_variance": "mean variance of a candidate's votes",
    "actor_pairs": "actor pairs",
    "judge_pairs": "judge pairs",
    "chosen_tokens": "mean tokens of the chosen (actor pairs)",
    "rejected_tokens": "mean tokens of the rejected (actor pairs)",
    "score_gap": "mean score of the chosen above the rejected",
    "left_out": "pairs that training left out",
    "loss": "loss at the last step",
    "accuracy": "share of pairs in their order at the last step",
}
"""Every number with its meaning."""


def iteration_numbers(run: RunFolder, iteration: int) -> Numbers:
    """Every number of NAMES; None where the iteration has no rows to compute it from."""
    candidates = run.rows(iteration, "candidates", ["tokens", "finish_reason"])
    votes = run.rows(iteration, "votes.parquet", ["tokens", "parse_status"])
    scores = run.rows(iteration, "scores.parquet", ["score", "variance"])
    found: dict[str, Any] = {
        "prompts": run.rows(iteration, "prompts.parquet", ["prompt_id"]).height,
        "candidates": candidates.height,
        "candidate_tokens": candidates["tokens"].mean(),
        "cut_share": (candidates["finish_reason"] == "length").mean(),
        "checks_passed": run.rows(iteration, "verifications", ["passed"])["passed"].mean(),
        "judgement_tokens": votes["tokens"].mean(),
        "parsed_share": (votes["parse_status"] == "ok").mean(),
        "score": scores["score"].mean(),
        "score_variance": scores["variance"].mean(),
        **_pairs(run, iteration),
        **_training(run, iteration),
    }
    return {name: found[name] for name in NAMES}


def _pairs(run: RunFolder, iteration: int) -> dict[str, Any]:
    sides = ("chosen", "rejected")
    columns = ["kind", *(f"score_{side}" for side in sides), *(f"{side}_token_ids" for side in sides)]
    pairs = run.rows(iteration, "pairs.parquet", columns)
    actor = pairs.filter(pl.col("kind") == "actor")
    made = run.has(iteration, "pairs.parquet")
    return {
        "actor_pairs": actor.height if made else None,
        "judge_pairs": pairs.height - actor.height if made else None,
        **{f"{side}_tokens": actor[f"{side}_token_ids"].list.len().mean() for side in sides},
        "score_gap": (actor["score_chosen"] - actor["score_rejected"]).mean(),
    }


def _training(run: RunFolder, iteration: int) -> dict[str, Any]:
    metrics = run.rows(iteration, "train/metrics.parquet").sort("step")
    last = {name: metrics.filter(metric=name)["value"].to_list()[-1:] for name in ("loss", "accuracy")}
    ended = run.has(iteration, "train/ledger.parquet")
    return {
        "left_out": run.rows(iteration, "train/ledger.parquet", ["pair_id"]).height if ended else None,
        **{name: values[0] if values else None for name, values in last.items()},
    }
