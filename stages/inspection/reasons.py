"""Why a prompt gave a pair or none, in words: one answer for each iteration and kind."""

from typing import Any

import polars as pl

from stages.contracts.errors import StageError
from stages.inspection.lineage import drawn, key_of, known_prompt, training, use_of
from stages.inspection.run_folder import EFT, RunFolder

Document = dict[str, Any]
Row = dict[str, Any]

NO_PAIR = {
    "no_candidate": "fewer than two answers were sampled",
    "failed": "the engine failed, and fewer than two answers are left",
    "truncated": "too few texts ended by themselves before the token limit",
    "thoughts": "too many answers are thoughts without an answer after them",
    "not_judged": "fewer than two answers were judged",
    "shortened": "the judge saw only parts of the answers, which does not count here",
    "unparsed": "too few verdicts could be read",
    "identical": "both texts are the same",
    "tie": "the best is not better than the worst",
    "margin": "the scores are nearer to each other than pairs.min_margin",
    "overlong": "the chosen text is longer than the limit for chosen ones",
    "low_score": "the best has a lower score than a chosen one may have (pairs.min_chosen_score)",
    "length_ratio": "the lengths of the two differ too much (pairs.min_length_ratio, pairs.max_length_ratio)",
    "repeated": "an earlier iteration had the same pair",
    "surplus": "the prompt has as many pairs as it may have (pairs.max_pairs_per_prompt)",
    "not_compared": "none of its answers had judgements that were compared",
    "alike": "the judgements to compare differ in nothing but their scores",
    "same_score": "both judgements give the same score (pairs.same_score_judgements)",
    "budget": "the pair is good, but the mix had no room for it (pairs.judge_share, pairs.max_pairs)",
    "class_cap": "the pair is good, but too many choose a judgement of its score (pairs.max_judge_class_share)",
}
"""What the reasons of the pair ledger say."""
NOT_TRAINED = {
    "overlong": "it is longer than the trainer's sequences",
    "empty": "one of its members is empty",
    "identical": "both members are the same tokens",
    "not_finite": "a log-probability is not a finite number",
    "template": "the chat template refuses its turns",
    "held_out": "it is held out, to validate on",
}
"""What the reasons of the training ledger say."""


def reasons(run: RunFolder, prompt: str) -> Document:
    """In which iterations a prompt gave which pairs, and why none in the others; keys as in docs/inspecting.md.
    StageError for a prompt that the run does not know."""
    key = key_of(prompt)
    if key.kind != "prompt":
        raise StageError(f"{prompt}: the key of a {key.kind}; ask for its prompt, {key.prompt}")
    found = known_prompt(run, prompt)
    numbers = [number for number in drawn(run, found) if number != EFT]
    answers = [answer for number in numbers for answer in _answers(run, number, prompt)]
    return {
        "kind": "reasons",
        "path": str(run.path),
        "id": prompt,
        "prompt": found,
        "drawn": numbers,
        "answers": answers or [_answer(None, None, "not_drawn", _whereabouts(found))],
        "problems": list(run.problems),
    }


def _answers(run: RunFolder, iteration: int, prompt: str) -> list[Row]:
    if not run.has(iteration, "pair_ledger.parquet"):
        return [_answer(iteration, None, "not_yet", "the stage `pairs` has not run yet")]
    here, members = pl.col("prompt_id") == prompt, ["pair_id", "kind", "score_chosen", "score_rejected"]
    left_out = training(run, iteration)
    pairs = run.rows(iteration, "pairs.parquet", members, here).sort("pair_id").to_dicts()
    dropped = run.rows(iteration, "pair_ledger.parquet", where=here).sort("kind", "pair").to_dicts()
    answers = [_of_pair(iteration, row, use_of(row["pair_id"], left_out)) for row in pairs]
    answers += [_of_drop(iteration, row) for row in dropped]
    return sorted(answers, key=lambda answer: str(answer["pair_kind"]))


def _of_pair(iteration: int, row: Row, use: Row) -> Row:
    words = f"a pair, {row['pair_id']}"
    if row["score_chosen"] is not None:
        words += f": {row['score_chosen']:.4g} over {row['score_rejected']:.4g}"
    ends = {
        "trained": "trained on",
        "not_yet": "training has not ended yet",
        "left_out": f"not trained on: {_said(NOT_TRAINED, use)}",
    }
    extra = {"pair_id": row["pair_id"], "training": use}
    return _answer(iteration, row["kind"], "pair", f"{words}; {ends[use['status']]}", **extra)


def _of_drop(iteration: int, row: Row) -> Row:
    which = f"no pair {row['pair']}" if row["pair"] else "no pair"
    of = f" of judgements of {row['candidate_id']}" if row["candidate_id"] else ""
    words = f"{which}{of}: {_said(NO_PAIR, row)}"
    return _answer(iteration, row["kind"], "no_pair", words, reason=row["reason"], detail=row["detail"])


def _said(words: dict[str, str], row: Row) -> str:
    """A reason in words, with the ledger's numbers behind it."""
    return f"{words.get(row['reason'], row['reason'])} ({row['reason']}: {row['detail']})"


def _answer(iteration: int | None, kind: str | None, outcome: str, words: str, **more: Any) -> Row:
    nothing: Row = {"pair_id": None, "training": None, "reason": None, "detail": None}
    return {"iteration": iteration, "pair_kind": kind, "outcome": outcome, **nothing, **more, "words": words}


def _whereabouts(prompt: Row) -> str:
    """Why no iteration drew a prompt."""
    if "prompts/held_out.parquet" in prompt["places"]:
        return "held out: models are measured on it, none is trained on it"
    if "eft/prompts.parquet" in prompt["places"]:
        return "a prompt of evaluation fine-tuning (EFT), which the loop does not draw"
    if prompt["split"] == "validation":
        return "in the validation split of the pool, which the loop does not draw"
    return "no iteration has drawn it yet"
