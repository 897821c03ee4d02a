"""What the generating stages share: ask a model for completions, resumably, and tell whether to trust them.

Finished requests are journalled in small Parquet files in a hidden folder beside the output. The folder's name is a
digest of everything that decides the completions, so a rerun continues its own work and never picks up other work.
"""

import hashlib
import shutil
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from stages.config import AS_IT_IS, EngineSettings, Sampling, TemplateSettings
from stages.contracts.artifacts import write
from stages.contracts.errors import StageError
from stages.contracts.files import atomic
from stages.contracts.ids import digest
from stages.contracts.schema import Table
from stages.engines import open_engine
from stages.engines.protocol import Completion, Engine, Request
from stages.model_files.manifest import model_digest
from stages.prompting.chat import ChatTokenizer

CHUNK_ROWS = 100
CHUNK_SECONDS = 5.0
MAX_ERROR_RATE = 0.05
MANY_DUPLICATES = 0.5

_COMPLETION = pl.Schema(
    {
        "request_id": pl.String(),
        "text": pl.String(),
        "token_ids": pl.List(pl.Int32()),
        "finish_reason": pl.String(),
        "logprob": pl.Float64(),
        "error": pl.String(),
    }
)


class Generator:
    """A model behind its engine, as a context: loaded when the first request is not in a journal, and then only once.

    What it is asked, and what it answered, is what `complete` takes and gives; the engine does not show through.
    """

    def __init__(self, model: Path, settings: EngineSettings, chat: TemplateSettings = AS_IT_IS):
        self.model, self.settings, self._chat = model, settings, chat
        self._stack = ExitStack()

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @cached_property
    def digest(self) -> str:
        """The model's identity: of its weights, tokenizer and chat template."""
        return model_digest(self.model)

    @cached_property
    def chat(self) -> ChatTokenizer:
        """The model's tokenizer and chat template."""
        return ChatTokenizer(self.model, self._chat)

    def prompt_limit(self, sampling: Sampling) -> int:
        """Tokens of the longest prompt that leaves room for an answer."""
        return self.settings.max_sequence_length - sampling.max_tokens

    def complete(self, asked: pl.DataFrame, sampling: Sampling, output: Path) -> pl.DataFrame:
        """Completions of all requests; those that the journal beside `output` holds are not asked for again.

        `asked` has one row per request: `request_id`, `seed`, `prompt_token_ids`, and key columns that pass through.
        Returns its rows without `prompt_token_ids`, with `text`, `token_ids`, `tokens` (their number), `finish_reason`,
        `logprob` and `error`. A thought that the prompt opened is opened in the text. Raises StageError if too many
        requests fail.
        """
        requests = _requests(asked)
        folder = journal_folder(output, requests, sampling, self.settings, self.digest)
        remove_journals(output, keep=folder)
        done = read_journal(folder)
        finished = set(done["request_id"])
        missing = [request for request in requests if request.request_id not in finished]
        if missing and finished:
            print(f"resuming: {len(finished)} of {len(requests)} requests are done", file=sys.stderr)
        parts = [done, *(journalled(self._engine.generate(missing, sampling), folder) if missing else [])]
        completions = asked.drop("prompt_token_ids").join(pl.concat(parts), on="request_id", how="left", validate="1:1")
        completions = completions.with_columns(self._text(), tokens=pl.col("token_ids").list.len().cast(pl.Int64))
        check_complete(completions)
        return completions

    def _text(self) -> pl.Expr:
        """The text of completions, with the beginning of a thought that the prompt opened: else nobody could tell a
        thought that is never closed from an answer."""
        opened = pl.lit(self.chat.template.opening) + pl.col("text")
        return pl.when(pl.col("finish_reason") == "error").then("text").otherwise(opened).alias("text")

    @cached_property
    def _engine(self) -> Engine:
        engine = self._stack.enter_context(open_engine(self.model, self.settings))
        if not engine.seeds_honoured:
            print("warning: this engine ignores seeds; a rerun would draw other samples", file=sys.stderr)
        return engine


def publish(data: pl.DataFrame, output: Path, table: Table, provenance: dict[str, Any]) -> None:
    """Write the stage's output, then remove its journal, which has served."""
    write(data, output, table, provenance)
    remove_journals(output)


def journalled(completions: Iterator[Completion], folder: Path) -> Iterator[pl.DataFrame]:
    """Completions in chunks, each saved in `folder` before it is yielded; also what came before an exception."""
    chunk: list[Completion] = []
    saved = time.monotonic()
    try:
        for completion in completions:
            chunk.append(completion)
            if len(chunk) >= CHUNK_ROWS or time.monotonic() - saved > CHUNK_SECONDS:
                yield _save(chunk, folder)
                chunk, saved = [], time.monotonic()
    finally:
        rest = _save(chunk, folder) if chunk else None
    if rest is not None:
        yield rest


def read_journal(folder: Path) -> pl.DataFrame:
    """The journalled completions, each request once; failed requests are left out, so that they are tried again."""
    parts = [pl.read_parquet(path) for path in sorted(folder.glob("part-*.parquet"))]
    done = pl.concat([pl.DataFrame(schema=_COMPLETION), *parts]).filter(pl.col("finish_reason") != "error")
    return done.unique("request_id", keep="first", maintain_order=True)


def journal_folder(
    output: Path, requests: Sequence[Request], sampling: Sampling, engine: EngineSettings, model_digest: str
) -> Path:
    """Folder beside `output`, named after all that decides the completions.

    The requests hold what iteration, run seed, template and inputs amount to: exact input tokens and seeds.
    """
    sha = hashlib.sha256(digest(model_digest, sampling.model_dump(), engine.backend, engine.dtype).encode())
    for request in requests:
        sha.update(f"{request.request_id} {request.seed} {len(request.prompt_token_ids)} ".encode())
        sha.update(array("i", request.prompt_token_ids).tobytes())
    return output.parent / f".{output.name}.journal-{sha.hexdigest()[:16]}"


def remove_journals(output: Path, keep: Path | None = None) -> None:
    """Delete the journals of `output`, except `keep`."""
    for folder in output.parent.glob(f".{output.name}.journal-*"):
        if folder != keep:
            shutil.rmtree(folder)


def check_complete(completions: pl.DataFrame) -> None:
    """StageError if a request has no completion, or if more than MAX_ERROR_RATE of them failed."""
    lost = completions.filter(pl.col("finish_reason").is_null())
    if lost.height:
        raise StageError(f"the engine gave no completion for {lost.height} requests, first {lost['request_id'][0]}")
    failed = completions.filter(pl.col("finish_reason") == "error")
    if failed.height > MAX_ERROR_RATE * completions.height:
        raise StageError(
            f"{failed.height} of {completions.height} requests failed; the first is {failed['request_id'][0]}: "
            f"{failed['error'][0]}. Remove the cause and rerun: what succeeded is kept"
        )


def duplicates(completions: pl.DataFrame, by: str) -> int:
    """How many completions repeat another one with the same `by` (its prompt), token for token."""
    sound = completions.filter(pl.col("finish_reason") != "error")
    return sound.height - sound.select(by, "token_ids").unique().height


def summary(completions: pl.DataFrame, by: str) -> str:
    """The stage's closing numbers; warns on stderr when most samples of a prompt (column `by`) are the same."""
    total = completions.height
    reasons = dict(completions["finish_reason"].value_counts().iter_rows())
    repeated = duplicates(completions, by)
    if repeated >= MANY_DUPLICATES * total > 0:
        print(
            f"warning: {repeated} of {total} completions repeat another one of the same {by}; "
            "check the sampling temperature, and that the engine honours seeds",
            file=sys.stderr,
        )
    tokens = int(completions["token_ids"].list.len().sum())
    return (
        f"{total} completions, {tokens} tokens, {reasons.get('length', 0)} cut at max_tokens, "
        f"{reasons.get('error', 0)} failed, {repeated} duplicates"
    )


def _requests(asked: pl.DataFrame) -> list[Request]:
    """One request per row, ordered by id; samples of one prompt share their tuple of tokens."""
    shared: dict[tuple[int, ...], tuple[int, ...]] = {}
    rows = asked.sort("request_id").select("request_id", "prompt_token_ids", "seed").iter_rows()
    return [Request(name, shared.setdefault(ids := tuple(tokens), ids), seed) for name, tokens, seed in rows]


def _save(chunk: list[Completion], folder: Path) -> pl.DataFrame:
    data = pl.DataFrame([asdict(completion) for completion in chunk], schema=_COMPLETION)
    number = len(list(folder.glob("part-*.parquet")))
    with atomic(folder / f"part-{number:05d}.parquet") as partial:
        data.write_parquet(partial)
    return data
