"""What a generating stage tells of how far it is."""

import io
import time

import pytest

from stages.engines import progress
from stages.engines.progress import Progress, reported
from stages.engines.protocol import Completion


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "ends"), [(io.StringIO(), "\n"), (Terminal(), "\r")])
def test_it_is_told_also_while_nothing_comes(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, ends: str) -> None:
    monkeypatch.setattr(progress, "LOG_SECONDS", 0.05)
    monkeypatch.setattr(progress, "TERMINAL_SECONDS", 0.05)
    with Progress(10, stream) as told:
        time.sleep(0.2)
        before = stream.getvalue()
        for number in range(4):
            told.add(Completion(f"r{number}", "", [1, 2, 3], "stop"))
        time.sleep(0.2)
    assert before.strip().startswith("0 of 10 requests, 0 tokens/s, time left unknown")
    assert before.count("of 10") >= 2
    last = stream.getvalue().strip().split(ends)[-1]
    assert last.startswith("4 of 10 requests, ")
    assert last.endswith("time left 0:00:01") or last.endswith("time left 0:00:00")


def test_short_work_says_nothing_in_a_log() -> None:
    stream = io.StringIO()
    completions = [Completion("r", "", [1], "stop")]
    assert list(reported(completions, 1, stream)) == completions
    assert stream.getvalue() == ""


def test_the_share_of_prompts_found_computed_is_told_where_it_is_known() -> None:
    stream = io.StringIO()
    told = Progress(4, stream)
    for cached in (0.0, 0.9, None):
        told.add(Completion("r", "", [1], "stop", cached=cached))
    assert ", 45% of prompts found computed, time left" in told.line()
