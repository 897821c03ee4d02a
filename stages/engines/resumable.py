"""What the generating stages share: ask a model for completions, resumably, and tell whether to trust them."""

import hashlib
import sys
import time
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import polars as pl

from stages.config import AS_IT_IS, EngineSettings, Sampling, TemplateSettings, decides
from stages.contracts.artifacts import write
from stages.contracts.errors import StageError
from stages.contracts.ids import digest
from stages.contracts.schema import Table
from stages.engines import open_engine
from stages.engines.journal import COMPLETION, Journal, remove_journals
from stages.engines.progress import reported
from stages.engines.protocol import Completion, Engine, Request, failed, refusal
from stages.model_files.manifest import model_digest
from stages.prompting.chat import ChatTokenizer

WAITS = (2.0, 20.0)
"""Seconds before what failed is asked again, and once more."""
HOPELESS = 50
"""So many failures, and nothing else, end the stage."""
MANY_DUPLICATES = 0.5


class Generator:
    """A model behind its engine, as a context: loaded when the first request is not in a journal, and then only once.

    What it is asked, and what it answered, is what `complete` takes and gives; the engine does not show through.
    """

    def __init__(self, model: Path, settings: EngineSettings, chat: TemplateSettings = AS_IT_IS):
        self.model, self.settings, self._chat = model, settings, chat
        self.digest = model_digest(model)
        """The model's identity: of its weights, tokenizer and chat template, none of which is damaged."""
        self._stack = ExitStack()
        self._held: dict[str, bool] = {}

    def __enter__(self) -> "Generator":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    @property
    def facts(self) -> dict[str, Any]:
        """For the provenance of what was generated: the model's digest, and what held of all engines that took part."""
        return {"model": self.digest, **self._held}

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
        requests fail; those that nobody could answer, being too long, do not count.
        """
        requests = _requests(asked)
        journal = Journal(output, work_digest(requests, sampling, self.settings, self.digest))
        done = journal.completions()
        finished = set(done["request_id"])
        refused = [failed(one, why, refused=True) for one in requests if (why := self._refusal(one, sampling))]
        settled = finished | {one.request_id for one in refused}
        missing = [request for request in requests if request.request_id not in settled]
        if missing and finished:
            print(f"resuming: {len(finished)} of {len(requests)} requests are done", file=sys.stderr)
        parts = [done, _frame(refused), *(self._answers(missing, sampling, journal) if missing else [])]
        completions = asked.drop("prompt_token_ids").join(pl.concat(parts), on="request_id", how="left", validate="1:1")
        completions = completions.with_columns(self._text(), tokens=pl.col("token_ids").list.len().cast(pl.Int64))
        check_complete(completions, self.settings.max_failed_share)
        self._held |= {name: held and self._held.get(name, True) for name, held in journal.facts().items()}
        return completions.drop("refused")

    def _refusal(self, request: Request, sampling: Sampling) -> str | None:
        return refusal(request, sampling, self.settings.max_sequence_length)

    def _answers(self, requests: Sequence[Request], sampling: Sampling, journal: Journal) -> Iterator[pl.DataFrame]:
        """Completions of the requests; those that fail are asked for again before they count as failed."""
        journal.keep({"seeds_honoured": self._engine.seeds_honoured, "exact_tokens": self._engine.exact_tokens})
        for wait in (*WAITS, None):
            completions = reported(self._engine.generate(requests, sampling), len(requests))
            again: set[str] = set()
            for part in journal.recorded(_while_some_succeed(completions)):
                failures = part.filter((pl.col("finish_reason") == "error") & ~pl.col("refused"))
                again |= set(failures["request_id"])
                yield part if wait is None else part.join(failures, on="request_id", how="anti")
            if not again or wait is None:
                return
            print(f"{len(again)} requests failed; they are asked again in {wait:g} seconds", file=sys.stderr)
            time.sleep(wait)
            requests = [request for request in requests if request.request_id in again]

    def _text(self) -> pl.Expr:
        """The text of completions, with the beginning of a thought that the prompt opened: else nobody could tell a
        thought that is never closed from an answer."""
        opened = pl.lit(self.chat.template.opening) + pl.col("text")
        return pl.when(pl.col("finish_reason") == "error").then("text").otherwise(opened).alias("text")

    @cached_property
    def _engine(self) -> Engine:
        print(f"opening the engine {self.settings.backend} on {self.model}", file=sys.stderr)
        engine = self._stack.enter_context(open_engine(self.model, self.settings))
        if not engine.seeds_honoured:
            print("warning: this engine ignores seeds; a rerun would draw other samples", file=sys.stderr)
        return engine


def publish(data: pl.DataFrame, output: Path, table: Table, provenance: dict[str, Any]) -> None:
    """Write the stage's output, then remove its journal, which has served."""
    write(data, output, table, provenance)
    remove_journals(output)


def check_complete(completions: pl.DataFrame, max_failed_share: float) -> None:
    """StageError if a request has no completion, if every one was refused, or if more than this share of them failed
    (one always may)."""
    lost = completions.filter(pl.col("finish_reason").is_null())
    if lost.height:
        raise StageError(f"the engine gave no completion for {lost.height} requests, first {lost['request_id'][0]}")
    refused = completions.filter("refused")
    if refused.height:
        what = f"{refused.height} of {completions.height} requests were refused; the first is "
        what += f"{refused['request_id'][0]}: {refused['error'][0]}"
        if refused.height == completions.height:
            raise StageError(what)
        print(f"warning: {what}", file=sys.stderr)
    lost = completions.filter((pl.col("finish_reason") == "error") & ~pl.col("refused"))
    if lost.height > ceil(max_failed_share * completions.height):
        raise StageError(
            f"{lost.height} of {completions.height} requests failed (engine.max_failed_share); the first is "
            f"{lost['request_id'][0]}: {lost['error'][0]}. Remove the cause and rerun: what succeeded is kept"
        )


def work_digest(requests: Sequence[Request], sampling: Sampling, engine: EngineSettings, model_digest: str) -> str:
    """Digest of all that decides the completions.

    The requests hold what iteration, run seed, template and inputs amount to: exact input tokens and seeds.
    """
    own = {"trtllm": {"trtllm"}, "openai": {"server"}}.get(engine.backend, set())
    chosen = engine.model_dump(mode="json", include={"backend", "dtype"}) | _results_of(engine, own)
    sha = hashlib.sha256(digest(model_digest, sampling.model_dump(), chosen).encode())
    for request in requests:
        sha.update(f"{request.request_id} {request.seed} {len(request.prompt_token_ids)} ".encode())
        sha.update(array("i", request.prompt_token_ids).tobytes())
    return sha.hexdigest()[:16]


def _results_of(engine: EngineSettings, sections: set[str]) -> dict[str, Any]:
    """What decides results in the engine's own section."""
    found: dict[str, Any] = {}
    for name in sections:
        section = getattr(engine, name)
        keys = {key for key, field in type(section).model_fields.items() if decides(field) == "results"}
        found |= section.model_dump(mode="json", include=keys)
    return found


def _while_some_succeed(completions: Iterable[Completion]) -> Iterator[Completion]:
    """The completions; StageError once so many failed, and none succeeded, that no more need be asked for."""
    hopeless = True
    for done, completion in enumerate(completions, start=1):
        yield completion
        hopeless = hopeless and completion.finish_reason == "error" and not completion.refused
        if hopeless and done == HOPELESS:
            raise StageError(f"the first {done} requests all failed, the last with: {completion.error}")


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


def _frame(completions: Sequence[Completion]) -> pl.DataFrame:
    return pl.DataFrame([asdict(completion) for completion in completions], schema=COMPLETION)
