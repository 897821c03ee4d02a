"""The inputs of the stage `pairs`, built prompt by prompt, and its run."""

from pathlib import Path
from typing import Any

import polars as pl

from stages import pairs as stage
from stages import tables
from stages.contracts.artifacts import read, write
from stages.contracts.ids import candidate_id, prompt_id
from stages.contracts.schema import Table, frame

Rows = list[dict[str, Any]]
INPUTS = (
    *(tables.PROMPTS, tables.CANDIDATE_PROMPTS, tables.CANDIDATES, tables.SCORES),
    *(tables.JUDGE_PROMPTS, tables.JUDGEMENTS, tables.VOTES, tables.RATINGS),
)


class World:
    """The inputs of one iteration, built prompt by prompt; `run` writes them and runs the stage."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, Rows] = {table.name: [] for table in INPUTS}

    def prompt(self, name: str, *candidates: dict[str, Any]) -> str:
        """A prompt with candidates given as {score, tokens, text, finish_reason, status}; returns its id.

        The status `verified` means a score by checks: no votes, no variance.
        """
        messages = [{"role": "user", "content": name}]
        key = prompt_id(messages)
        self.rows[tables.PROMPTS.name] += [
            {"prompt_id": key, "messages": messages, "split": "train", "source": "s", "row": 1}
        ]
        self.rows[tables.CANDIDATE_PROMPTS.name] += [
            {"prompt_id": key, "messages": messages, "token_ids": [7, len(name)]}
        ]
        for sample, given in enumerate(candidates):
            keys = {"prompt_id": key, "candidate_id": candidate_id(key, 1, sample)}
            text, tokens = given.get("text", f"{name} {sample}"), [100 + sample] * given.get("tokens", 4)
            self.rows[tables.CANDIDATES.name] += [
                {**keys, "iteration": 1, "sample": sample, "seed": sample, "text": text,
                 "token_ids": tokens, "tokens": len(tokens), "finish_reason": given.get("finish_reason", "stop")}
            ]  # fmt: skip
            score = given.get("score")
            status = given.get("status", "few_votes" if score is None else "ok")
            voted = status == "ok"
            self.rows[tables.SCORES.name] += [] if status == "not judged" else [
                {**keys, "score": score, "variance": given.get("variance", 0.0) if voted else None,
                 "valid_votes": 3 if voted else 0, "votes": 3, "status": status}
            ]  # fmt: skip
        return key

    def judged(self, key: str, *judgements: dict[str, Any]) -> str:
        """Compared judgements of a prompt's first candidate, given as {score, rating, text, tokens, ...}."""
        candidate = candidate_id(key, 1, 0)
        keys = {"prompt_id": key, "candidate_id": candidate, "judge": "policy"}
        messages = [{"role": "user", "content": f"judge {candidate}"}]
        self.rows[tables.JUDGE_PROMPTS.name] += [
            {**keys, "messages": messages, "token_ids": [8, 8], "shortened": False}
        ]
        for vote, given in enumerate(judgements):
            text = given.get("text", f"Because {vote}. Score: {given['score']}")
            self.rows[tables.JUDGEMENTS.name] += [
                {**keys, "vote": vote, "seed": vote, "text": text, "token_ids": [200 + vote] * given.get("tokens", 6),
                 "tokens": given.get("tokens", 6), "finish_reason": given.get("finish_reason", "stop")}
            ]  # fmt: skip
            self.rows[tables.VOTES.name] += [
                {**keys, "vote": vote, "score": given["score"], "parse_status": "ok", "finish_reason": "stop",
                 "tokens": given.get("tokens", 6)}
            ]  # fmt: skip
            self.rows[tables.RATINGS.name] += [
                {**keys, "vote": vote, "rating": given["rating"], "wins": 1.0, "losses": 1.0,
                 "battles": given.get("battles", 4), "alike": given.get("alike", 0)}
            ]  # fmt: skip
        return candidate

    def run(self, shards: int = 1, reverse: bool = False, **settings: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Write the tables in so many files each, run the stage, and read pairs and ledger."""
        files = {table.name: self._write(table, shards, reverse) for table in INPUTS}
        judged = {}
        if self.rows[tables.RATINGS.name]:
            judged = {
                "judgements": files[tables.JUDGEMENTS.name],
                "judge_prompts": files[tables.JUDGE_PROMPTS.name],
                "votes": self._write(tables.VOTES, 1, reverse)[0],
                "ratings": self._write(tables.RATINGS, 1, reverse)[0],
            }
        given = {
            "iteration": 1,
            "prompts": self._write(tables.PROMPTS, 1, reverse)[0],
            "candidates": files[tables.CANDIDATES.name],
            "candidate_prompts": files[tables.CANDIDATE_PROMPTS.name],
            "scores": self._write(tables.SCORES, 1, reverse)[0],
            "output": self.folder / "pairs.parquet",
            "ledger": self.folder / "ledger.parquet",
        }
        stage.main(stage.Args(**{**given, **judged, **settings}))
        return read(given["output"], tables.PAIRS), read(given["ledger"], tables.PAIR_LEDGER)

    def _write(self, table: Table, shards: int, reverse: bool) -> list[Path]:
        rows = self.rows[table.name][::-1] if reverse else self.rows[table.name]
        paths = [self.folder / f"{table.name}-{shard}.parquet" for shard in range(shards)]
        for shard, path in enumerate(paths):
            write(frame(table, rows[shard::shards]), path, table, {})
        return paths


def populate(world: World, prompts: int, judged: int) -> World:
    """So many prompts with an actor pair each, the first `judged` of them with a judge pair too."""
    for number in range(prompts):
        key = world.prompt(f"prompt {number}", {"score": 1.0}, {"score": 2.0 + number % 3})
        if number < judged:
            world.judged(key, {"score": 1 + number % 3, "rating": 1100.0}, {"score": 4, "rating": 900.0})
    return world


def reasons(ledger: pl.DataFrame, kind: str) -> dict[str, str]:
    return dict(ledger.filter(pl.col("kind") == kind).select("prompt_id", "reason").rows())
