"""The prompts that a report follows: which ones, and everything that belongs to one of them, joined by key."""

import zlib
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import polars as pl

from stages.reporting.page import as_json

Row = dict[str, Any]


@dataclass(frozen=True)
class Tables:
    """Rows of one iteration's tables; of verdicts, battles and ratings none where no judgements were compared."""

    prompts: pl.DataFrame
    candidates: pl.DataFrame
    judgements: pl.DataFrame
    votes: pl.DataFrame
    scores: pl.DataFrame
    verdicts: pl.DataFrame
    battles: pl.DataFrame
    ratings: pl.DataFrame
    pairs: pl.DataFrame
    ledger: pl.DataFrame


def sample_prompts(results: pl.DataFrame, limit: int) -> list[str]:
    """At most `limit` prompt ids of one iteration, every combination of outcomes in turn.

    `results` has `prompt_id`, `kind`, `outcome`. Prompts of the same combination come in the order of their ids, which
    are hashes; so the sample is fixed, and each beginning of it is as mixed as it can be.
    """
    label = pl.format("{} {}", "kind", "outcome").sort().str.join(", ")
    return (
        results.group_by("prompt_id")
        .agg(combination=label)
        .sort("prompt_id")
        .with_columns(turn=pl.int_range(pl.len()).over("combination"))
        .sort("turn", "combination")["prompt_id"]
        .head(limit)
        .to_list()
    )


def follow(prompt_ids: list[str], tables: Tables, max_bytes: int) -> list[Row]:
    """What the page shows of each prompt, in the given order, until they take `max_bytes` in gzip; at least one.

    A prompt has its messages, candidates (each with score, judgements and verdicts), pairs, and drops (ledger rows).
    """
    wanted = pl.DataFrame({"prompt_id": prompt_ids}, schema={"prompt_id": pl.String})
    parts = {name: _grouped(rows.join(wanted, on="prompt_id", how="semi")) for name, rows in vars(tables).items()}
    followed: list[Row] = []
    gzip, used = zlib.compressobj(), 0
    for prompt_id in prompt_ids:
        entry = _prompt({name: rows[prompt_id] for name, rows in parts.items()})
        used += len(gzip.compress(as_json(entry)) + gzip.flush(zlib.Z_SYNC_FLUSH))
        if followed and used > max_bytes:
            break
        followed.append(entry)
    return followed


def split_at(text: str, span: list[int] | None) -> list[str]:
    """Text before, within and after the matched verdict; the whole text alone if nothing matched."""
    return [text[: span[0]], text[span[0] : span[1]], text[span[1] :]] if span else [text]


def _prompt(rows: dict[str, list[Row]]) -> Row:
    (prompt,) = rows["prompts"]
    scores = {row["candidate_id"]: row for row in rows["scores"]}
    judgements, verdicts = _judgements(rows), _verdicts(rows)
    candidates = [
        {
            **_pick(row, "candidate_id", "sample", "text", "finish_reason", "tokens"),
            **_pick(scores.get(row["candidate_id"], {}), "score", "variance", "valid_votes", "votes"),
            "judgements": judgements[row["candidate_id"]],
            "verdicts": verdicts[row["candidate_id"]],
        }
        for row in sorted(rows["candidates"], key=lambda row: row["sample"])
    ]
    members = ("chosen_candidate_id", "rejected_candidate_id", "chosen_vote", "rejected_vote")
    return {
        **_pick(prompt, "prompt_id", "messages", "answer"),
        "candidates": candidates,
        "pairs": [_pick(row, "kind", "pair_id", *members) for row in _sorted(rows["pairs"], "kind", "pair_id")],
        "drops": [
            _pick(row, "kind", "reason", "detail", "candidate_id") for row in _sorted(rows["ledger"], "kind", "pair")
        ],
    }


def _sorted(rows: list[Row], *names: str) -> list[Row]:
    return sorted(rows, key=lambda row: tuple(row[name] for name in names))


def _judgements(rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Judgements of each candidate with their votes and ratings."""
    votes = {(row["candidate_id"], row["vote"]): row for row in rows["votes"]}
    ratings = {(row["candidate_id"], row["vote"]): row["rating"] for row in rows["ratings"]}
    found: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows["judgements"], key=lambda row: row["vote"]):
        key = row["candidate_id"], row["vote"]
        vote = votes.get(key, {})
        parsed = {**_pick(vote, "score", "parse_status"), "parts": split_at(row["text"], vote.get("span"))}
        found[row["candidate_id"]].append({"vote": row["vote"], **parsed, "rating": ratings.get(key)})
    return found


def _verdicts(rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Verdicts on each candidate's judgements with their winners."""
    keys = ("candidate_id", "vote_a", "vote_b")
    battles = {tuple(row[key] for key in keys): row for row in rows["battles"]}
    found: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows["verdicts"], key=lambda row: (row["vote_a"], row["vote_b"])):
        battle = battles.get(tuple(row[key] for key in keys), {})
        verdict = {**_pick(row, "vote_a", "vote_b", "text"), **_pick(battle, "winner", "parse_status")}
        found[row["candidate_id"]].append(verdict)
    return found


def _grouped(rows: pl.DataFrame) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows.iter_rows(named=True):
        groups[row["prompt_id"]].append(row)
    return groups


def _pick(row: Row, *names: str) -> Row:
    return {name: row.get(name) for name in names}
