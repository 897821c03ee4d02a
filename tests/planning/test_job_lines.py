"""What jobs say of themselves in Snakemake's terminal."""

import io
import logging
import time
from pathlib import Path
from typing import Any

import pytest

from stages.planning.job_lines import WIDTH, JobLines, last_line


class Told:
    """A logger with the handler, and what it told."""

    def __init__(self, logs: Path, seconds: float) -> None:
        self.logs, self.stream = logs, io.StringIO()
        self.handler = JobLines(self.stream, seconds)

    def hear(self, event: str, **given: Any) -> None:
        record = logging.LogRecord("snakemake", logging.INFO, "", 0, "", (), None)
        record.__dict__ |= {"event": event, **given}
        self.handler.handle(record)

    def start(self, job: int, name: str) -> Path:
        log = self.logs / name
        log.parent.mkdir(parents=True, exist_ok=True)
        self.hear("job_info", jobid=job, log=[str(log)])
        self.hear("job_started", jobs=[job])
        return log

    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path / "logs", 60.0)


def test_a_finished_job_tells_the_last_line_of_its_log(told: Told) -> None:
    told.start(1, "pairs/2.log").write_text("reading\npairs: 7 actor pairs\n\n")
    told.start(2, "train/2.log").write_text("step 1/2  loss 0.69\nstep 2/2  loss 0.61\n")
    told.start(3, "ingest.log").write_text("ingest: 4 rows\n")
    for job in (2, 1, 3):
        told.hear("job_finished", job_id=job)
    assert told.lines() == ["  train 2: step 2/2  loss 0.61", "  pairs 2: 7 actor pairs", "  ingest: 4 rows"]


def test_nothing_is_told_of_what_says_nothing_or_fails(told: Told) -> None:
    told.hear("job_info", jobid=1, log=[])
    told.hear("job_started", jobs=[1])
    told.start(2, "score/1.log")
    told.start(3, "judge/1-000.log").write_text("warning: slow\n")
    told.start(4, "rate/1.log").write_text("\n \n")
    told.hear("job_error", jobid=3)
    told.hear("shellcmd")
    for job in (1, 2, 4):
        told.hear("job_finished", job_id=job)
    assert told.lines() == []


def test_a_running_job_tells_each_new_line_once(tmp_path: Path) -> None:
    told = Told(tmp_path / "logs", 0.01)
    log = tmp_path / "logs/judge/1-000.log"
    log.parent.mkdir(parents=True)
    log.write_text("3 of 4 requests\n")  # of an attempt that was killed
    told.start(1, "judge/1-000.log")
    log.write_text("1 of 4 requests\n")
    _wait(told, 1)
    with log.open("a") as file:
        file.write("2 of 4 requests\n")
    _wait(told, 2)
    told.hear("job_error", jobid=1)
    log.write_text("4 of 4 requests\n")
    time.sleep(0.1)
    assert told.lines() == ["  judge 1-000: 1 of 4 requests", "  judge 1-000: 2 of 4 requests"]


def test_a_terminal_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    told = Told(tmp_path / "logs", 0.01)
    told.stream.close()
    told.start(1, "judge/1-000.log").write_text("1 of 4 requests\n")
    time.sleep(0.1)
    told.hear("job_finished", job_id=1)
    assert told.handler._thread is not None
    assert told.handler._thread.is_alive(), "it still watches"


def test_the_same_line_as_last_time_is_told_at_the_end(told: Told) -> None:
    log = told.logs / "pairs/1.log"
    log.parent.mkdir(parents=True)
    log.write_text("pairs: 7 actor pairs\n")
    told.start(1, "pairs/1.log")
    told.hear("job_finished", job_id=1)
    assert told.lines() == ["  pairs 1: 7 actor pairs"]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"a\rb\r\n", "b"),
        (b"\x1b]0;title\x07 red \x1b[31mtext\n", "]0;title red [31mtext"),
        (b"x" * 9000, "x" * (WIDTH - 1) + "…"),
        (b"\xff" + b"tail\n", "\ufffdtail"),
        (b"", ""),
    ],
)
def test_a_line_is_short_and_moves_no_cursor(tmp_path: Path, written: bytes, shown: str) -> None:
    (tmp_path / "a.log").write_bytes(written)
    assert last_line(tmp_path / "a.log") == shown


def test_no_log_says_nothing(tmp_path: Path) -> None:
    assert last_line(tmp_path / "none.log") == ""


def _wait(told: Told, lines: int) -> None:
    """Until so many lines were told."""
    for _ in range(500):
        if len(told.lines()) >= lines:
            return
        time.sleep(0.01)
    raise AssertionError(told.lines())
