"""Generation by a server of the OpenAI protocol: vLLM, SGLang, trtllm-serve, llama.cpp, or any other one.

Prompts go out as token ids, so that no server-side chat template ever sees them; one request per sample, each with its
own seed and its own error. Token ids come back where the server gives them: training is on exactly what was sampled.
Lengths are checked here, since servers cut without a word. What else the server makes of a request is tried when it is
opened (`server_probe`).
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from math import fsum
from pathlib import Path
from typing import Any, TypeVar

from stages.config import EngineSettings, Sampling
from stages.contracts.errors import StageError
from stages.engines.dialects import DIALECTS, Answer
from stages.engines.http_client import Client, RefusedError, TransientError
from stages.engines.local_server import Slot, running, wait_until_ready
from stages.engines.protocol import Completion, Request, failed, prompts_together, refusal
from stages.engines.server_probe import Findings, probe
from stages.prompting.chat import ChatTokenizer

T = TypeVar("T")


class OpenAiEngine:
    """An `Engine` around a server that runs already, or that is started for it."""

    def __init__(self, model: Path, settings: EngineSettings) -> None:
        self.model, self.settings = model, settings
        self.url = ""
        self.found = Findings()
        self._dialect = DIALECTS[settings.server.kind]
        self._own: Slot | None = None
        self._stack = ExitStack()

    @property
    def seeds_honoured(self) -> bool:
        return self.found.seeds

    @property
    def exact_tokens(self) -> bool:
        return self.found.ids

    def __enter__(self) -> "OpenAiEngine":
        """Start the server if it is ours, and try what it does. StageError if it is not ready, serves another model, or
        gives no token ids."""
        with self._stack:
            self._chat = ChatTokenizer(self.model)
            server = self.settings.server
            if server.command is not None:
                self._own = self._stack.enter_context(running(server, self.model))
                self.url = self._own.url
            else:
                assert server.url is not None
                self.url = server.url.rstrip("/").removesuffix("/v1")
                wait_until_ready(self.url, server.start_seconds)
            self._runner = self._stack.enter_context(asyncio.Runner())
            self._client = Client(self.url, server, through_proxy=self._own is None)
            self._wait_for(self._client.__aenter__())
            self._stack.callback(lambda: self._wait_for(self._client.__aexit__()))
            self._name = self._wait_for(self._served_name())
            self.found = self._wait_for(probe(self._ask, self._chat, server))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._client.retries:
            print(f"the server was asked again {self._client.retries} times after failures", file=sys.stderr)
        self._stack.__exit__(*error)

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        """Yield one completion per request, as they finish. Raises StageError when a server of ours is gone."""
        answers = self._answers(requests, sampling)
        try:
            while completion := self._wait_for(anext(answers, None)):
                yield completion
        finally:
            self._wait_for(answers.aclose())

    async def _answers(self, requests: Sequence[Request], sampling: Sampling) -> AsyncGenerator[Completion, None]:
        waiting = iter(prompts_together(requests))
        asked: set[asyncio.Task[Completion]] = set()
        done: set[asyncio.Task[Completion]] = set()
        try:
            while True:
                free = self.settings.server.concurrency - len(asked)
                asked |= {asyncio.create_task(self._complete(request, sampling)) for request in islice(waiting, free)}
                if not asked:
                    return
                done, asked = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
        finally:
            for task in asked:
                task.cancel()
            # Of several that failed one is raised; the others are looked at here, or asyncio would print them.
            await asyncio.gather(*asked, *done, return_exceptions=True)

    async def _complete(self, request: Request, sampling: Sampling) -> Completion:
        if problem := refusal(request, sampling, self.settings.max_sequence_length):
            return failed(request, problem, refused=True)
        try:
            answer = await self._ask(request, sampling)
        except RefusedError as error:
            return failed(request, f"refused by the server: {error}", refused=True)
        except TransientError as error:
            if self._own is not None and not self._own.lives():
                raise StageError("the server has ended; what it said is above. Run the stage again") from error
            return failed(request, f"no answer after {1 + self.settings.server.retries} tries: {error}")
        return completion(request, answer, sampling, self._chat, self.found.logprobs)

    async def _ask(self, request: Request, sampling: Sampling) -> Answer:
        body = {"model": self._name, **self._dialect.body(request, sampling, sorted(self._chat.stop_ids))}
        return await self._client.ask("POST", self._dialect.path, self._dialect.read, body)

    async def _served_name(self) -> str:
        """The name under which the server has this model. StageError if it serves another one."""
        if self.settings.server.model is not None:
            return self.settings.server.model
        served = await self._client.ask("GET", "/v1/models", lambda found: list(found["data"]))
        for entry in served:
            if self._own is not None or self._is_here(entry.get("root") or entry["id"]):
                return str(entry["id"])
        names = ", ".join(str(entry["id"]) for entry in served)
        raise StageError(
            f"the server serves {names or 'no model'}, not {self.model}; if that is the same one, name it in "
            "engine.server.model"
        )

    def _is_here(self, root: str) -> bool:
        return Path(root).resolve() == self.model.resolve()

    def _wait_for(self, awaited: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(awaited)


def completion(
    request: Request, answer: Answer, sampling: Sampling, chat: ChatTokenizer, logprobs_at_one: bool
) -> Completion:
    """An answer as a Completion whose tokens end with the stop token if it ended by itself.

    Its text is decoded here, whatever the server shows. Without token ids the text is encoded anew. An answer that is
    shorter than asked for, and says that it was cut, is an error: the server holds less than max_sequence_length.
    """
    tokens = chat.encode_text(answer.text) if answer.ids is None else list(answer.ids)
    text, ended = chat.decode(tokens), bool(tokens) and tokens[-1] in chat.stop_ids
    cuts = [place for stop in sampling.stop if (place := text.find(stop)) >= 0]
    reason = "stop" if ended and answer.finish_reason == "length" else answer.finish_reason
    if reason not in ("stop", "length"):
        return failed(request, f"the server ended the request with finish_reason {reason!r}")
    if reason == "length" and answer.ids is not None and len(tokens) < sampling.max_tokens:
        return failed(request, f"cut by the server after {len(tokens)} of {sampling.max_tokens} tokens")
    logprobs = answer.logprobs if logprobs_at_one and len(answer.logprobs or ()) == len(tokens) else None
    if reason == "stop" and not ended and not cuts:
        tokens.append(answer.stopped_at if isinstance(answer.stopped_at, int) else chat.end_id)
        logprobs = None
    total = None if logprobs is None else fsum(logprobs)
    shown = text[: min(cuts)] if cuts else text
    return Completion(request.request_id, shown, tokens, reason, total, cached=answer.cached)
