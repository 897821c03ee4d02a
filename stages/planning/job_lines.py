"""What jobs say of themselves, in Snakemake's own terminal: the line with a job's numbers when it ends, and how far
running ones are now and then. It is taken from their log files, so that it comes from a cluster's nodes as well."""

import contextlib
import logging
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

SECONDS = 30.0
WIDTH = 200
TAIL = 4096


class JobLines(logging.Handler):
    """A handler for Snakemake's logger, whose events tell of jobs: shows the last line of a log when its job ends,
    and every `seconds` before where there is a new one."""

    def __init__(self, stream: TextIO | None = None, seconds: float = SECONDS) -> None:
        super().__init__()
        self.stream, self.seconds = stream or sys.stderr, seconds
        self._logs: dict[int, Path] = {}
        self._told: dict[int, str] = {}
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        event, given = str(getattr(record, "event", "")), record.__dict__
        if event == "job_info" and given["log"]:
            self._logs[given["jobid"]] = Path(given["log"][0])
        elif event == "job_started":
            self._start(job for job in given["jobs"] if job in self._logs)
        elif event == "job_finished" and given["job_id"] in self._logs:
            self._tell(given["job_id"], last_line(self._logs[given["job_id"]]))
            self._told.pop(given["job_id"])
        elif event == "job_error":
            self._told.pop(given["jobid"], None)

    def _start(self, jobs: Iterable[int]) -> None:
        """What an earlier attempt wrote into the same file is as good as told."""
        self._told |= {job: last_line(self._logs[job]) for job in jobs}
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(self.seconds):
            self.acquire()
            try:
                for job, told in list(self._told.items()):
                    if (line := last_line(self._logs[job])) != told:
                        self._tell(job, line)
            finally:
                self.release()

    def _tell(self, job: int, line: str) -> None:
        """The line, after the rule and what names the job among all of that rule."""
        self._told[job] = line
        *_, rule, which = self._logs[job].with_suffix("").parts
        named = which if rule == "logs" else f"{rule} {which}"
        if not line:
            return
        with contextlib.suppress(OSError, ValueError):  # a terminal that is gone, or a closed pipe, stops no run
            print(f"  {named}: {line.removeprefix(f'{named.split()[0]}: ')}", file=self.stream, flush=True)


def last_line(log: Path) -> str:
    """The last line of a log that says something, at most 200 signs of it, none of them a control character; nothing
    where there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line for line in text.splitlines() if line.strip()]
    shown = "".join(sign for sign in lines[-1] if sign.isprintable()) if lines else ""
    return shown if len(shown) <= WIDTH else f"{shown[: WIDTH - 1]}…"
