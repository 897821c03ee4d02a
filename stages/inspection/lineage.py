"""The lineage of a prompt, a candidate or a pair: all rows that belong to it, joined by key."""

import re
from typing import Any, NamedTuple

import polars as pl

from stages.contracts.errors import StageError
from stages.contracts.schema import Table
from stages.inspection.run_folder import EFT, OF_AN_ITERATION, OF_EFT, RunFolder
from stages.tables import EVALUATIONS, PROMPTS

Document = dict[str, Any]
Row = dict[str, Any]
_PROMPT = r"(?P<prompt>[0-9a-f]{16})"
_FORMS = {
    "prompt": re.compile(_PROMPT),
    "candidate": re.compile(rf"{_PROMPT}-\d+-\d+"),
    "pair": re.compile(rf"(actor|judge)-\d+-{_PROMPT}-\d+"),
}


class Key(NamedTuple):
    """A prompt_id, candidate_id or pair_id, and the prompt that it belongs to."""

    kind: str
    text: str
    prompt: str


def key_of(text: str) -> Key:
    """What a key is the key of. StageError if it has the form of none."""
    for kind, form in _FORMS.items():
        if found := form.fullmatch(text):
            return Key(kind, text, found["prompt"])
    raise StageError(
        f"{text!r}: no prompt_id (16 hex digits), candidate_id (<prompt_id>-<iteration>-<sample>) or pair_id "
        "(<kind>-<iteration>-<prompt_id>-<pair>)"
    )


def lineage(run: RunFolder, text: str) -> Document:
    """All that a run holds of a key: of a prompt everything, of a candidate or pair what belongs to it; keys as in
    docs/inspecting.md. StageError for a key that the run does not know."""
    key = key_of(text)
    prompt = known_prompt(run, key.prompt)
    iterations = [_narrowed(_iteration(run, number, key.prompt), key) for number in drawn(run, prompt)]
    iterations = [one for one in iterations if any(one[part] for part in ("candidates", "pairs", "ledger"))]
    if key.kind != "prompt" and not any(one[f"{key.kind}s"] for one in iterations):
        raise StageError(f"{run.path}: no {key.kind} {key.text}; `trace` and `why` show its prompt, {key.prompt}")
    return {
        "kind": "lineage",
        "path": str(run.path),
        "id": key.text,
        "prompt": prompt,
        "iterations": iterations,
        "evaluations": _evaluations(run, key.prompt),
        "problems": list(run.problems),
    }


def known_prompt(run: RunFolder, prompt: str) -> Row:
    """A row of table `prompts` with the places of the run where it is, first to last. StageError if it is nowhere."""
    names = ["prompts/pool.parquet", "prompts/held_out.parquet", "eft/prompts.parquet"]
    inner = ("created_prompts.parquet", "prompts.parquet")
    names += [f"iter-{number}/{name}" for number in run.iterations for name in inner]
    here = pl.col("prompt_id") == prompt
    found = {name: known for name in names if (known := run.rows_of(name, PROMPTS, where=here).to_dicts())}
    if not found:
        nowhere = f"{run.path}: no prompt {prompt} in its pool, its iterations or its held-out prompts"
        raise StageError("; ".join([nowhere, *run.problems]))
    return {**next(iter(found.values()))[0], "places": list(found)}


def drawn(run: RunFolder, prompt: Row) -> list[int]:
    """The iterations that a prompt is in; EFT is 0."""
    folders = {number: f"{run.folder(number).name}/prompts.parquet" for number in (EFT, *run.iterations)}
    return [number for number, name in folders.items() if name in prompt["places"]]


def training(run: RunFolder, iteration: int) -> dict[str, Row] | None:
    """What training left out, by pair_id; None where it has not ended."""
    if not run.has(iteration, "train/ledger.parquet"):
        return None
    return {row["pair_id"]: row for row in run.rows(iteration, "train/ledger.parquet").iter_rows(named=True)}


def use_of(pair_id: str, left_out: dict[str, Row] | None) -> Row:
    """What training made of a pair: `status` `trained`, `left_out` or `not_yet`, with the ledger's reason."""
    row = (left_out or {}).get(pair_id, {})
    status = "not_yet" if left_out is None else "left_out" if row else "trained"
    return {"status": status, "reason": row.get("reason"), "detail": row.get("detail")}


def readable(table: Table) -> list[str]:
    """A table's columns without tokens, which no one reads."""
    return [name for name in table.columns if not name.endswith("token_ids")]


class _Rows:
    """The rows of one prompt in the tables of one iteration; none of tables that it does not have."""

    def __init__(self, run: RunFolder, iteration: int, prompt: str):
        self._run, self._iteration, self._here = run, iteration, pl.col("prompt_id") == prompt
        self._places = OF_AN_ITERATION if iteration else OF_EFT

    def of(self, name: str, where: pl.Expr | None = None) -> list[Row]:
        if name not in self._places:
            return []
        table = self._places[name].table
        found = self._run.rows(self._iteration, name, readable(table), self._here if where is None else where)
        return found.sort([column for column in table.key if column in found.columns]).to_dicts()


def _iteration(run: RunFolder, number: int, prompt: str) -> Document:
    rows = _Rows(run, number, prompt)
    parts = {name: rows.of(name) for name in ("scores.parquet", "verifications", "verdicts", "battles.parquet")}
    votes = _votes(rows)
    battles = {_battle(row): row for row in parts["battles.parquet"]}
    candidates = [
        {
            **_without(row, "prompt_id", "iteration"),
            "score": next((_without(score, *_KEY) for score in parts["scores.parquet"] if _same(score, row)), None),
            "verifications": [_without(check, *_KEY) for check in parts["verifications"] if _same(check, row)],
            "votes": [_without(vote, *_KEY) for vote in votes if _same(vote, row)],
            "comparisons": [
                {**_without(verdict, *_KEY), **_without(battles.get(_battle(verdict), {}), *_KEY)}
                for verdict in parts["verdicts"]
                if _same(verdict, row)
            ],
        }
        for row in rows.of("candidates" if number else "answers")
    ]
    ledger = [_without(row, "prompt_id") for row in rows.of("pair_ledger.parquet")]
    return {"iteration": number, "candidates": candidates, "pairs": _pairs(run, number, rows), "ledger": ledger}


_KEY = ("prompt_id", "candidate_id")


def _same(row: Row, candidate: Row) -> bool:
    return bool(row["candidate_id"] == candidate["candidate_id"])


def _battle(row: Row) -> tuple[Any, ...]:
    return row["candidate_id"], row["vote_a"], row["vote_b"]


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def _votes(rows: _Rows) -> list[Row]:
    """Judgements with what was parsed of them, their rating, and why EFT left them out."""
    more = {
        name: {(row["candidate_id"], row["vote"]): row for row in rows.of(place)}
        for name, place in (("parsed", "votes.parquet"), ("rating", "ratings.parquet"), ("left_out", "ledger.parquet"))
    }
    found = []
    for row in rows.of("judgements"):
        key = row["candidate_id"], row["vote"]
        parsed = more["parsed"].get(key, {})
        found.append({
            **row,
            **{name: parsed.get(name) for name in ("score", "verdict", "parse_status")},
            **{name: _without(more[name][key], *_KEY, "vote") if key in more[name] else None
               for name in ("rating", "left_out")},
        })  # fmt: skip
    return found


def _pairs(run: RunFolder, iteration: int, rows: _Rows) -> list[Row]:
    """Pairs with the reference's log-probabilities, and what training made of them."""
    found = rows.of("pairs.parquet")
    if not found:
        return []
    these = pl.col("pair_id").is_in([row["pair_id"] for row in found])
    reference = {row["pair_id"]: row for row in rows.of("reference_logprobs.parquet", these)}
    left_out = training(run, iteration)
    return [
        {
            **_without(row, "prompt_id", "prompt"),
            "reference": _without(reference[row["pair_id"]], "pair_id") if row["pair_id"] in reference else None,
            "training": use_of(row["pair_id"], left_out),
        }
        for row in found
    ]


def _narrowed(one: Document, key: Key) -> Document:
    """What of an iteration belongs to a candidate or a pair."""
    members = ("chosen_candidate_id", "rejected_candidate_id")
    if key.kind == "prompt":
        return one
    if key.kind == "pair":
        pairs = [row for row in one["pairs"] if row["pair_id"] == key.text]
        ids, ledger = {row[name] for row in pairs for name in members}, []
    else:
        pairs = [row for row in one["pairs"] if key.text in [row[name] for name in members]]
        ids, ledger = {key.text}, [row for row in one["ledger"] if row["candidate_id"] in (None, key.text)]
    candidates = [row for row in one["candidates"] if row["candidate_id"] in ids]
    return {**one, "candidates": candidates, "pairs": pairs, "ledger": ledger if candidates else []}


def _evaluations(run: RunFolder, prompt: str) -> list[Row]:
    """The models' answers to a held-out prompt."""
    return [
        {"model": name, **_without(row, "prompt_id", "messages")}
        for name in run.evaluated()
        for row in run.rows_of(
            f"evaluation/{name}/evaluations.parquet", EVALUATIONS, readable(EVALUATIONS), pl.col("prompt_id") == prompt
        ).iter_rows(named=True)
    ]
