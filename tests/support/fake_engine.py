"""One engine for all tests that need no model: it says what a function of the request says."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from stages.config import Sampling
from stages.engines.protocol import Completion, Request


class FakeEngine:
    """Answers with `reply(request)`, a text or a whole completion; the last request first if `backwards`; and dies
    before answer number `dies_before`. `asked` are the requests that it answered."""

    seeds_honoured = True
    exact_tokens = True

    def __init__(
        self, reply: Callable[[Request], str | Completion], dies_before: int | None = None, backwards: bool = False
    ) -> None:
        self.reply, self.dies_before, self.backwards = reply, dies_before, backwards
        self.asked: list[Request] = []

    def __enter__(self) -> "FakeEngine":
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        for number, request in enumerate(reversed(requests) if self.backwards else requests):
            if number == self.dies_before:
                raise RuntimeError("killed")
            self.asked.append(request)
            said = self.reply(request)
            yield said if isinstance(said, Completion) else completion(request, said)


def completion(request: Request, text: str) -> Completion:
    """A text that ended by itself, a token for each byte."""
    return Completion(request.request_id, text, list(text.encode()), "stop", -1.0)
