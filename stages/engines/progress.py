"""How far a generating stage is: one line that keeps changing in a terminal, a line now and then in a log."""

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from statistics import fmean
from typing import TextIO

from stages.engines.protocol import Completion

LOG_SECONDS = 30.0
TERMINAL_SECONDS = 1.0


def reported(completions: Iterable[Completion], total: int, stream: TextIO | None = None) -> Iterator[Completion]:
    """The completions, while a thread tells of them on `stream` (standard error): also of none, if none come."""
    with Progress(total, stream or sys.stderr) as progress:
        for completion in completions:
            progress.add(completion)
            yield completion


class Progress:
    """A context in which what is done of `total` requests is told from time to time."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self.total, self.stream = total, stream
        self.done = self.tokens = 0
        self._cached: list[float] = []
        self._started = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)
        self._terminal = stream.isatty()

    def __enter__(self) -> "Progress":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._terminal:
            print(f"\r{self.line()}", file=self.stream, flush=True)

    def add(self, completion: Completion) -> None:
        self.done += 1
        self.tokens += len(completion.token_ids)
        if completion.cached is not None:
            self._cached.append(completion.cached)

    def line(self) -> str:
        """What is done, how fast, how much of the prompts was found computed, and how long the rest would take at the
        same rate."""
        seconds = time.monotonic() - self._started
        left = timedelta(seconds=round(seconds * (self.total - self.done) / self.done)) if self.done else "unknown"
        found = f"{fmean(self._cached):.0%} of prompts found computed, " if self._cached else ""
        return f"{self.done} of {self.total} requests, {self.tokens / seconds:.0f} tokens/s, {found}time left {left}"

    def _tell(self) -> None:
        while not self._ended.wait(TERMINAL_SECONDS if self._terminal else LOG_SECONDS):
            start, end = ("\r", "") if self._terminal else ("", "\n")
            print(f"{start}{self.line()}", end=end, file=self.stream, flush=True)
