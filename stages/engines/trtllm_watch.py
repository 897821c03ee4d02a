"""Waiting for a library that may hang: answers in the order of their arrival, and an end where nothing comes.

A request's `result()` waits without limit, also for a worker that is dead (TensorRT-LLM #10663), and `shutdown()` may
do the same (#16312, #18310). So each is called in a thread of its own, for which the end of the process does not wait.
"""

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Thread, Timer
from typing import Any, NoReturn

from stages.contracts.errors import StageError
from stages.engines.protocol import Request

CAUSE_SECONDS = 2.0
"""What a library that shuts down may take to tell why."""


class StalledError(StageError):
    """No answer came for too long while requests were in flight."""


class Arrivals:
    """Results of requests in flight, each waited for in a thread, in the order in which they come."""

    def __init__(self, stall_seconds: float) -> None:
        self.awaited = 0
        """Requests that were sent and have not come back."""
        self._stall_seconds = stall_seconds
        self._arrived: SimpleQueue[tuple[Request, Any]] = SimpleQueue()

    def expect(self, request: Request, future: Any) -> None:
        """Have `future.result()` wait for the request's answer."""
        self.awaited += 1
        Thread(target=self._wait, args=(request, future), daemon=True).start()

    def next(self) -> tuple[Request, Any]:
        """The next request to come back, with its result or the exception in its place; StalledError if none comes."""
        try:
            arrived = self._arrived.get(timeout=self._stall_seconds)
        except Empty:
            raise StalledError(
                f"no answer for {self._stall_seconds:g} seconds (engine.stall_seconds) with {self.awaited} requests in "
                "flight: a worker of TensorRT-LLM is dead or hangs, see its log above. Run the stage again: what was "
                "answered is kept"
            ) from None
        self.awaited -= 1
        return arrived

    def cause(self, error: Exception) -> Exception:
        """Why the library takes no more requests: it tells that to one in flight alone. `error` if to none."""
        with suppress(Empty):
            while self.awaited:
                _, result = self._arrived.get(timeout=CAUSE_SECONDS)
                if isinstance(result, Exception):
                    return result
        return error

    def _wait(self, request: Request, future: Any) -> None:
        try:
            result = future.result()
        except BaseException as error:
            result = error
        self._arrived.put((request, result))


def returns_within(seconds: float, function: Callable[[], Any]) -> bool:
    """Call `function` in a thread; whether it came back in time."""
    thread = Thread(target=function, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


@contextmanager
def leaves_after(seconds: float, why: str) -> Iterator[None]:
    """End the process with the error `why` if the block takes longer."""
    timer = Timer(seconds, leave, [StageError(why)])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def leave(error: BaseException) -> NoReturn:
    """Tell the error and end the process at once: leaving in order would wait for what hangs."""
    told = [f"error: {error}\n"] if isinstance(error, StageError | OSError) else traceback.format_exception(error)
    print("".join(told), end="", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
