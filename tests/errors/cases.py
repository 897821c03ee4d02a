"""Inputs that a stage refuses, each with the command that is given it; `docs/errors.md` shows what it then says."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from stages.contracts.artifacts import write
from stages.contracts.ids import digest
from stages.contracts.schema import Table, frame
from stages.tables import CANDIDATES, JUDGEMENTS, PAIRS, PROMPTS
from tests.support.records import candidate_row, prompt_row, turns

Make = Callable[[Path], None]
"""Writes a file, given its path."""


class Case(NamedTuple):
    """A situation in words, the stage with its flags, and the files that lie in the folder where it runs."""

    what: str
    command: str
    files: dict[str, bytes | Make] = {}  # noqa: RUF012


def lines(*rows: Any) -> bytes:
    """One JSON value a line."""
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def table(of: Table, *rows: dict[str, Any]) -> Make:
    """A table with these rows."""
    return lambda path: write(frame(of, rows), path, of, {})


def damaged(make: Make) -> Make:
    """The first half of a file."""

    def halve(path: Path) -> None:
        make(path)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])

    return halve


def flipped(make: Make) -> Make:
    """A file of which one bit is another."""

    def flip(path: Path) -> None:
        make(path)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return flip


def unkeyed(path: Path) -> None:
    """Prompts whose texts are numbers."""
    rows = frame(PROMPTS, [prompt_row(turns("Hi"))]).with_columns(split=pl.lit(3))
    rows.write_parquet(path)


HELLO = prompt_row(turns("Say hello"))
ANSWER = candidate_row(HELLO["prompt_id"], 0, "Hello")
JUDGED = {
    **{"prompt_id": HELLO["prompt_id"], "candidate_id": ANSWER["candidate_id"], "iteration": 1, "vote": 0, "seed": 0},
    **{"judge": "policy", "token_ids": [], "tokens": 0, "finish_reason": "stop"},
}
INGEST = "ingest --sources chat.jsonl --prompts prompts.parquet --ledger ledger.parquet --strict true"
SELECT = "select --iteration 1 --pool pool.parquet --output prompts.parquet"
SCORE = "score --judgements judgements.parquet --votes votes.parquet --scores scores.parquet"
JUDGE = (
    "judge --model model --candidates candidates.parquet --prompts prompts.parquet --output out.parquet "
    "--model-inputs inputs.parquet --template judge.jinja"
)
VERIFY = "verify --prompts prompts.parquet --candidates candidates.parquet --output out.parquet"
BASE_MODEL = "base_model --model model --output out/manifest.json"
EXPORT = "export pairs.parquet --to trl --output out"
ANSWERED = table(CANDIDATES, ANSWER)
TO_JUDGE: dict[str, bytes | Make] = {"prompts.parquet": table(PROMPTS, HELLO), "candidates.parquet": ANSWERED}
LISTED = {"config.json": "d914176fd50bd7f5"}
MANIFEST = json.dumps({"digest": digest(LISTED), "files": LISTED}).encode()
FINE = {"prompt": "Fine?"}


def row(what: str, bad: Any) -> Case:
    """A second row of chat data that cannot be used."""
    return Case(what, INGEST, {"chat.jsonl": lines(FINE, bad)})


def judged(*texts: str) -> dict[str, bytes | Make]:
    """Judgements with these texts, of as many candidates."""
    rows = [JUDGED | {"text": text, "candidate_id": f"{JUDGED['candidate_id']}{n}"} for n, text in enumerate(texts)]
    return {"judgements.parquet": table(JUDGEMENTS, *rows)}


CASES = (
    Case("no such data", INGEST),
    Case("data of an unknown kind", INGEST.replace("chat.jsonl", "chat.txt"), {"chat.txt": b"Hi"}),
    Case("data without rows", INGEST, {"chat.jsonl": b""}),
    Case("a line that is no JSON", INGEST, {"chat.jsonl": lines(FINE) + b'{"prompt": "Hi"\n'}),
    Case("a line that is not UTF-8", INGEST, {"chat.jsonl": lines(FINE) + b'{"prompt": "caf\xe9"}\n'}),
    row("a row that is no object", ["Hi"]),
    row("a row in no known form", {"text": "Hi"}),
    row("a row whose prompt is null", {"prompt": None}),
    row("an empty prompt", {"prompt": " "}),
    row("a turn of an unknown role", {"messages": [{"role": "usr", "content": "Hi"}]}),
    row("a turn without content", {"messages": [{"role": "user"}]}),
    row("content that is no text", {"messages": [{"role": "user", "content": 3}]}),
    row("a conversation without a user", {"messages": [{"role": "assistant", "content": "Hi"}]}),
    row("half a surrogate pair", {"prompt": "a\ud800"}),
    row("a hint that is no text", {"prompt": "Hi", "sampling_hint": 3}),
    Case("compressed data that breaks off", INGEST.replace("jsonl", "jsonl.gz"),
         {"chat.jsonl.gz": gzip.compress(lines(FINE) * 99, mtime=0)[:40]}),
    Case("Parquet data that is none", INGEST.replace("jsonl", "parquet"), {"chat.parquet": b"PAR1"}),
    Case("more bad rows than allowed", INGEST.replace("--strict true", "--max-bad-rows 0.1"),
         {"chat.jsonl": lines(FINE, {"text": "a"}, {"prompt": ""})}),
    Case("no prompt short enough", INGEST + " --max-prompt-characters 2", {"chat.jsonl": lines(FINE)}),
    Case("no such table", SELECT),
    Case("a table that is no Parquet", SELECT, {"pool.parquet": b"hello"}),
    Case("half a table", SELECT, {"pool.parquet": damaged(table(PROMPTS, HELLO))}),
    Case("a table with one flipped bit", SELECT, {"pool.parquet": flipped(table(PROMPTS, HELLO))}),
    Case("another table", SELECT, {"pool.parquet": table(CANDIDATES, ANSWER)}),
    Case("a column of another type", SELECT, {"pool.parquet": unkeyed}),
    Case("an iteration before the first", SELECT.replace("1", "0"), {"pool.parquet": table(PROMPTS, HELLO)}),
    Case("candidates of other prompts", VERIFY,
         {"prompts.parquet": table(PROMPTS, prompt_row(turns("Other"))), "candidates.parquet": ANSWERED}),
    Case("nothing to score", "score --votes votes.parquet --scores scores.parquet"),
    Case("judgements without rows", SCORE, {"judgements.parquet": table(JUDGEMENTS)}),
    Case("judgements without a score", SCORE, judged("Nice.", "Good.")),
    Case("scores off the scale", SCORE, judged("Score: 9", "Score: 7")),
    Case("only top scores", SCORE, judged("Score: 5", "Score: 5")),
    Case("only equal scores", SCORE, judged("Score: 3", "Score: 3")),
    Case("a pattern without a place for the score", SCORE + " --pattern Score", judged("Score: 3")),
    Case("a pattern that is none", SCORE + " --pattern '{{ score }}('", judged("Score: 3")),
    Case("a scale upside down", SCORE + " --low 5 --high 0", judged("Score: 3")),
    Case("a weight that nothing uses", SCORE + " --judge-weight 0.2", judged("Score: 3")),
    Case("no such template", JUDGE, TO_JUDGE),
    Case("a template with an unknown variable", JUDGE, {"judge.jinja": b"{{ prompt }}", **TO_JUDGE}),
    Case("a template that is none", JUDGE, {"judge.jinja": b"{{ response", **TO_JUDGE}),
    Case("no such model", JUDGE, {"judge.jinja": b"{{ conversation }} {{ response }}",
         **TO_JUDGE}),
    Case("a model directory without a tokenizer", BASE_MODEL, {"model/model.safetensors": b""}),
    Case("weights as pickle alone", BASE_MODEL,
         {"model/config.json": b'{"model_type": "llama"}', "model/pytorch_model.bin": b""}),
    Case("a model with one flipped bit", JUDGE, {"judge.jinja": b"{{ conversation }} {{ response }}", **TO_JUDGE,
         "model/manifest.json": MANIFEST, "model/config.json": b"[]"}),
    Case("a GGUF file that is none", "convert --gguf model.gguf --output model", {"model.gguf": b"GGML"}),
    Case("no such GGUF file", "convert --gguf model.gguf --output model"),
    Case("a report of no run", "report --run results/none --iterations 1 --output report.html"),
    Case("to look at what is not there", "inspect results/none"),
    Case("to look at what is no Parquet", "inspect notes.parquet", {"notes.parquet": b"hello"}),
    Case("to export in an unknown layout", EXPORT.replace("trl", "trlx"), {"pairs.parquet": table(PAIRS)}),
    Case("to export no pairs", EXPORT, {"pairs.parquet": table(PAIRS)}),
    Case("to export over other files", EXPORT,
         {"pairs.parquet": table(PAIRS), "out/mine.txt": b"mine"}),
    Case("an unknown flag", SELECT + " --count 3", {"pool.parquet": table(PROMPTS, HELLO)}),
    Case("a word for a number", SELECT + " --prompts many", {"pool.parquet": table(PROMPTS, HELLO)}),
    Case("a missing flag", "select --iteration 1 --pool pool.parquet"),
)  # fmt: skip
