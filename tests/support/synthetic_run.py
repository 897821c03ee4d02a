"""A small made-up run directory: three iterations, 40 prompts each, valid tables, fixed numbers, hostile texts.

The run starts with EFT. Judges compare judgements in iterations 1 and 2; iteration 3 has unreadable remains of an
earlier configuration in their place. Iteration 2 creates prompts; iteration 1 has such remains in their place.
What the tables say follows from the small rules of `synthetic_rules`.
"""

from itertools import permutations
from pathlib import Path
from statistics import fmean, pvariance
from typing import Any

from stages import tables
from stages.contracts import ids
from stages.contracts.artifacts import write
from stages.contracts.schema import Table, frame
from tests.support import synthetic_rules as made

Row = dict[str, Any]


def build(folder: Path) -> Path:
    """Write the whole run under `folder` and return it."""
    pool: list[Row] = []
    for iteration in range(1, made.ITERATIONS + 1):
        prompts = [_prompt(iteration, number) for number in range(made.PROMPTS_EACH)]
        pool += prompts
        _write(folder / f"iter-{iteration}" / "prompts.parquet", tables.PROMPTS, prompts, "select")
        _write_iteration(folder / f"iter-{iteration}", iteration)
    _write(folder / "prompts" / "pool.parquet", tables.PROMPTS, pool, "ingest")
    dropped = [{"source": "in.jsonl", "row": 900 + i, "reason": "duplicate", "detail": "again"} for i in range(3)]
    _write(folder / "prompts" / "ingest_ledger.parquet", tables.INGEST_LEDGER, dropped, "ingest")
    _write_eft(folder / "eft")
    for job, row in made.CLOCKS.items():
        (folder / "benchmarks" / job).parent.mkdir(parents=True, exist_ok=True)
        (folder / "benchmarks" / job).write_text(f"s\th:m:s\tmax_rss\tcpu_time\n{row}\n")
    for model in range(-1, made.ITERATIONS + 1):
        _write_evaluation(folder / "evaluation" / ("base" if model < 0 else str(model)), model)
    return folder


def _write(path: Path, table: Table, rows: list[Row], stage: str) -> None:
    origin = {"stage": stage, "code": "c0de", "settings_digest": "5e77", "model": f"model-of-{stage}", "seed": 7}
    origin |= {"settings": made.SETTINGS.get(stage, {})}
    write(frame(table, rows), path, table, origin)


def _prompt(iteration: int, number: int) -> Row:
    row = {"prompt_id": made.prompt_key(iteration, number), "messages": made.messages(iteration, number)}
    return {**row, "split": "train", "source": "in.jsonl", "row": 100 * iteration + number}


def _completion(text: str, tokens: int, finish_reason: str = "stop") -> Row:
    token_ids = list(range(tokens))
    sampled = {"seed": 1, "text": text, "token_ids": token_ids, "tokens": tokens, "finish_reason": finish_reason}
    return {**sampled, "logprob": -1.0 * tokens, "error": None}


def _write_iteration(folder: Path, iteration: int) -> None:
    rows: dict[str, list[Row]] = {name: [] for name in ("candidates", "judgements", "votes", "scores")}
    rows |= {name: [] for name in ("verdicts", "battles", "ratings", "pairs", "ledger")}
    for number in range(made.PROMPTS_EACH):
        _add_prompt(rows, iteration, number)
    for shard in (0, 1):
        for name, table in (
            ("candidates", tables.CANDIDATES),
            ("judgements", tables.JUDGEMENTS),
            ("verdicts", tables.VERDICTS),
        ):
            part = [row for row in rows[name] if ids.shard_of(row["prompt_id"], 2) == shard]
            if part:
                _write(folder / name / f"{shard}.parquet", table, part, name)
    _write(folder / "votes.parquet", tables.VOTES, rows["votes"], "score")
    _write(folder / "scores.parquet", tables.SCORES, rows["scores"], "score")
    if iteration in made.META_JUDGED:
        _write(folder / "battles.parquet", tables.BATTLES, rows["battles"], "rate")
        _write(folder / "ratings.parquet", tables.RATINGS, rows["ratings"], "rate")
    else:
        for remains in ("battles", "ratings", "verdicts/0"):
            (folder / "verdicts").mkdir(exist_ok=True)
            (folder / f"{remains}.parquet").write_text("of another configuration")
    if iteration == made.LEFT_OVER:
        for remains in ("created_prompts", "creation_ledger"):
            (folder / f"{remains}.parquet").write_text("of another configuration")
    if iteration == made.CREATING:
        created = [_prompt(10 * iteration, number) for number in range(made.CREATED)]
        drops = [
            {"creation_id": f"2-{number}", "reason": reason, "detail": "."}
            for number, reason in enumerate(made.NOT_CREATED)
        ]
        _write(folder / "created_prompts.parquet", tables.PROMPTS, created, "filter_prompts")
        _write(folder / "creation_ledger.parquet", tables.CREATION_LEDGER, drops, "filter_prompts")
    _write(folder / "pairs.parquet", tables.PAIRS, rows["pairs"], "pairs")
    _write(folder / "pair_ledger.parquet", tables.PAIR_LEDGER, rows["ledger"], "pairs")
    _write(folder / "train" / "metrics.parquet", tables.TRAIN_METRICS, _metrics(iteration), "train")
    _write(folder / "train" / "speed.parquet", tables.TRAIN_SPEED, made.speed(iteration), "train")


def _add_prompt(rows: dict[str, list[Row]], iteration: int, number: int) -> None:
    prompt = made.prompt_key(iteration, number)
    scores = []
    for sample in range(made.SAMPLES):
        key = {"prompt_id": prompt, "candidate_id": ids.candidate_id(prompt, iteration, sample)}
        text = _completion(made.response(iteration, number, sample), 10 + sample)
        rows["candidates"].append({**key, "iteration": iteration, "sample": sample, **text})
        for vote in range(made.VOTES_EACH):
            score = made.vote_score(iteration, number, sample, vote)
            raw = made.judgement(score, sample)
            start = raw.rindex("Score:")
            span = None if score is None else [start, start + len(f"Score: {score:g}")]
            rows["judgements"].append({**key, "vote": vote, "judge": "policy", **_completion(raw, 20)})
            status = "no_match" if score is None else "ok"
            parsed = {"score": score, "span": span, "parse_status": status, "finish_reason": "stop", "tokens": 20}
            rows["votes"].append({**key, "vote": vote, "judge": "policy", **parsed})
        known = [made.vote_score(iteration, number, sample, vote) for vote in range(made.VOTES_EACH)]
        valid = [score for score in known if score is not None]
        numbers = {"score": fmean(valid), "variance": pvariance(valid), "valid_votes": len(valid)}
        scores.append({**key, **numbers, "votes": 3, "status": "ok"})
    rows["scores"] += scores
    _add_actor_outcome(rows, iteration, number, scores)
    if iteration in made.META_JUDGED:
        _add_judge_outcome(rows, iteration, number, max(scores, key=lambda row: row["variance"]))


def _add_actor_outcome(rows: dict[str, list[Row]], iteration: int, number: int, scores: list[Row]) -> None:
    """The best over the worst; prompts that end in 5 have a second pair and leave a third one out, those that end in 7
    consider two pairs in vain."""
    prompt = made.prompt_key(iteration, number)
    drop = {"kind": "actor", "prompt_id": prompt, "candidate_id": None}
    worst, second, *_, best = sorted(scores, key=lambda row: row["score"])
    if best["score"] == worst["score"]:
        rows["ledger"].append({**drop, "pair": 0, "reason": "tie", "detail": "all 4 scores are 3.0"})
        return
    if number % 10 == 7:
        for pair, reason in enumerate(("overlong", "identical")):
            rows["ledger"].append({**drop, "pair": pair, "reason": reason, "detail": "."})
        return
    for pair, other in enumerate([worst, second] if number % 10 == 5 else [worst]):
        members = best["candidate_id"], other["candidate_id"]
        numbers = {"score_chosen": best["score"], "score_rejected": other["score"]}
        tokens = [10 + int(member.rsplit("-", 1)[1]) for member in members]
        rows["pairs"].append(_pair("actor", iteration, prompt, pair, members, (None, None), tokens) | numbers)
    if number % 10 == 5:
        rows["ledger"].append({**drop, "pair": 2, "reason": "margin", "detail": "0.5, more than 1 is needed"})


def _add_judge_outcome(rows: dict[str, list[Row]], iteration: int, number: int, score: Row) -> None:
    """The higher score wins, but slot A does where the scores are equal or the prompt's number is a multiple of 5."""
    key = {name: score[name] for name in ("prompt_id", "candidate_id")}
    if score["variance"] == 0:
        drop = {"kind": "judge", "prompt_id": key["prompt_id"], "candidate_id": None, "pair": 0}
        rows["ledger"].append({**drop, "reason": "not_compared", "detail": "no candidate with compared judgements"})
        return
    sample = int(key["candidate_id"].rsplit("-", 1)[1])
    given = {vote: made.vote_score(iteration, number, sample, vote) for vote in range(made.VOTES_EACH)}
    valid = {vote: value for vote, value in given.items() if value is not None}
    won = dict.fromkeys(valid, 0)
    for a, b in permutations(valid, 2):
        winner = "a" if number % 5 == 0 or valid[a] >= valid[b] else "b"
        won[a if winner == "a" else b] += 1
        pair = {**key, "vote_a": a, "vote_b": b}
        rows["verdicts"].append({**pair, **_completion(f"Winner: Judgement {winner.upper()} {made.SCRIPT}", 8)})
        rows["battles"].append({**pair, "winner": winner, "parse_status": "ok"})
    battles = 2 * (len(valid) - 1)
    for vote, wins in won.items():
        rating = 1000.0 + 50 * (2 * wins - battles)
        numbers = {
            "rating": rating,
            "wins": float(wins),
            "losses": float(battles - wins),
            "battles": battles,
            "alike": 0,
        }
        rows["ratings"].append({**key, "vote": vote, **numbers})
    best, worst = max(won, key=lambda vote: won[vote]), min(won, key=lambda vote: won[vote])
    if won[best] == won[worst]:
        reason = {"reason": "tie", "detail": "all judgements have the same rating"}
        rows["ledger"].append({"kind": "judge", **key, "pair": 0, **reason})
        return
    members = (key["candidate_id"], key["candidate_id"])
    rows["pairs"].append(_pair("judge", iteration, key["prompt_id"], 0, members, (best, worst), [20, 20]))


def _pair(
    kind: str,
    iteration: int,
    prompt: str,
    pair: int,
    members: tuple[str, str],
    votes: tuple[Any, Any],
    tokens: list[int],
) -> Row:
    row: Row = {"pair_id": f"{kind}-{iteration}-{prompt}-{pair}", "kind": kind, "prompt_id": prompt}
    row["prompt_token_ids"] = [1]
    row["prompt"] = [{"role": "user", "content": "?"}]
    for side, member, vote, length in zip(("chosen", "rejected"), members, votes, tokens, strict=True):
        row |= {side: [{"role": "assistant", "content": "!"}], f"{side}_token_ids": list(range(length))}
        row |= {f"{side}_candidate_id": member, f"{side}_vote": vote, f"score_{side}": None}
    return row


def _metrics(iteration: int) -> list[Row]:
    curves = {
        "loss": lambda step: 0.693 - 0.01 * iteration * step,
        "accuracy": lambda step: 0.5 + 0.01 * iteration * step,
        "reward_margin": lambda step: 0.02 * iteration * step,
        "logprob_chosen": lambda step: -20 + 0.1 * iteration * step,
        "logprob_rejected": lambda step: -22 - 0.1 * iteration * step,
    }
    steps = range(1, 11)
    rows = [{"step": step, "metric": name, "value": curve(step)} for name, curve in curves.items() for step in steps]
    rows.append({"step": 0, "metric": "examples", "value": 30.0})
    return rows + [row for step in (0, 5, 10) for row in made.held_out(step) if iteration == made.VALIDATED]


def _write_eft(folder: Path) -> None:
    votes, dropped, examples = [], [], []
    for number in range(60):
        key = {
            "prompt_id": f"{number // 12:016x}",
            "candidate_id": f"r{number // 3:02d}",
            "vote": number % 3,
            "judge": "policy",
        }
        score, reason = made.eft_score(number), made.EFT_REASONS.get(number % 7)
        status = {"parse_status": "no_match" if score is None else "ok", "finish_reason": "stop", "tokens": 20}
        votes.append({**key, "score": score, **status})
        if reason:
            dropped.append({**key, "reason": reason, "detail": "."})
        else:
            examples.append(f"eft-{key['candidate_id']}-v{key['vote']}")
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    rows = [{"example_id": name, "messages": turns, "prompt_loss_weight": 0.0} for name in [*examples, "ift-1"]]
    _write(folder / "train/0/speed.parquet", tables.TRAIN_SPEED, made.speed(0), "train")
    _write(folder / "votes.parquet", tables.VOTES, votes, "score")
    _write(folder / "ledger.parquet", tables.EFT_LEDGER, dropped, "eft")
    _write(folder / "examples.parquet", tables.SFT_EXAMPLES, rows, "eft")


def _write_evaluation(folder: Path, model: int) -> None:
    values = [
        {"metric": "quality", "value": 2.0 + 0.5 * model, "low": 1.9 + 0.5 * model, "high": 2.1 + 0.5 * model},
        {"metric": "quality_greedy", "value": 2.25 + 0.6 * model, "low": None, "high": None},
        {
            "metric": "judge_accuracy",
            "value": 0.90 + 0.01 * model,
            "low": 0.88 + 0.01 * model,
            "high": 0.93 + 0.01 * model,
        },
        {"metric": "judge_exact", "value": 0.70 + 0.02 * model, "low": 0.6, "high": 0.8},
        {
            "metric": "judge_spearman",
            "value": 0.25 + 0.05 * model,
            "low": 0.20 + 0.05 * model,
            "high": 0.3 + 0.05 * model,
        },
        {"metric": "judge_kendall", "value": 0.20 + 0.05 * model, "low": None, "high": None},
        {"metric": "judge_five_best", "value": 0.40 + 0.01 * model, "low": 0.35, "high": 0.45},
        {"metric": "judge_exact_order", "value": 0.10 + 0.01 * model, "low": 0.05, "high": 0.15},
        {"metric": "judge_calibration", "value": 0.125, "low": None, "high": None},
        {"metric": "judge_parse_rate", "value": 1.0, "low": None, "high": None},
        {
            "metric": "meta_accuracy",
            "value": 0.60 + 0.05 * model,
            "low": 0.55 + 0.05 * model,
            "high": 0.65 + 0.05 * model,
        },
        {"metric": "meta_first_slot", "value": 0.75, "low": 0.7, "high": 0.8},
        {"metric": "meta_flip", "value": 0.5, "low": None, "high": None},
        {"metric": "judge_score", "value": 1.25 + 0.5 * model, "low": None, "high": None},
        {"metric": "tokens", "value": 31.5 - model, "low": 30.0 - model, "high": 33.0 - model},
    ]
    _write(folder / "summary.parquet", tables.SUMMARY, [{"model": model, "n": 40, **row} for row in values], "evaluate")
    held_out = [
        {
            "prompt_id": f"{number:016x}",
            "decoding": decoding,
            "sample": 0,
            "messages": [{"role": "user", "content": f"Held out {number}"}],
            **_completion("Answer", 30),
            "tokens": 30,
            "quality": float(min(5, number % 4 + model)),
        }
        for number in range(40)
        for decoding in ("sample", "greedy")
    ]
    _write(folder / "evaluations.parquet", tables.EVALUATIONS, held_out, "evaluate")
    _write(folder / "check_evaluations.parquet", tables.CHECK_EVALUATIONS, [], "evaluate")
    judged = [
        {
            "prompt_id": f"{number // 2:016x}",
            "candidate_id": f"e{number:02d}",
            "rank": number % 2,
            "quality": float(number % 6),
            "score": (number % 6 + model) / 2,
            "first_score": 3.0,
            "valid_votes": 3,
        }
        for number in range(24)
    ]
    _write(folder / "judge_evaluations.parquet", tables.JUDGE_EVALUATIONS, judged, "evaluate")
