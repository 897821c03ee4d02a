"""Reading verdicts: microseconds per usual judgement, milliseconds per hostile megabyte.

    .venv/bin/python -m benchmarks.parsing

The usual judgement is about 120 words with its score at the end. `parse_votes` reads it from a column, as the stage
`score` does, `parse_score` alone and by the whole grammar. Beside them a bare regular expression takes the last match
of `score: <number>` from the same texts, as earlier systems read their judges; it reads one form. The sides take turns;
medians of the rounds are printed and written to `benchmarks/results/parsing.json`.
"""

import argparse
import datetime
import json
import os
import platform
import random
import re
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from stages.algorithms.parsing import LENIENT, parse_score, redact
from stages.algorithms.votes_and_battles import parse_votes
from stages.config import ScoreSection

RESULT = Path(__file__).parent / "results" / "parsing.json"
SENTENCE = "the response covers most of what was asked and is clear but lacks one example of its own"
ENDINGS = ("Score: {}", "**Score:** {}", "Score: {}/5", "I give it {} points.\n\nScore: {}", "Score: <{}>")
HOSTILE = (*("Score: ", "\nScore: x", "\nScore: 3-", "{", '{"a":', "\\boxed{", "<think>", "1", "★", "Points:\n- 1\n"),)
MEGABYTE = 1_000_000
BARE = re.compile(r"score: *(\d(?:\.\d)?)", re.IGNORECASE)


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=20_000, help="usual judgements of a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    texts = usual(options.texts)
    sides: dict[str, Callable[[str], Any]] = {"parse_score": read, "redact": hide, "bare expression": bare}
    rounds = [
        {"parse_votes": of_column(texts)} | {name: microseconds(side, texts) for name, side in sides.items()}
        for _ in range(options.rounds)
    ]
    medians = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    hostile = {
        part: statistics.median(microseconds(read, [text]) for _ in range(options.rounds)) / 1000
        for part in HOSTILE
        for text in [part * (MEGABYTE // len(part))]
    }
    result = {
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "texts": len(texts),
        "microseconds_per_text": {name: round(value, 2) for name, value in medians.items()},
        "parse_votes_to_bare_expression": round(medians["parse_votes"] / medians["bare expression"], 2),
        "milliseconds_per_hostile_megabyte": {part: round(value, 2) for part, value in hostile.items()},
    }
    print(json.dumps(result, indent=1, ensure_ascii=False))
    RESULT.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def usual(count: int) -> list[str]:
    """Judgements as most models write them, the same every time."""
    draw, words = random.Random(0), SENTENCE.split()
    return [
        " ".join(draw.choices(words, k=120)) + "\n\n" + draw.choice(ENDINGS).replace("{}", str(draw.randint(0, 5)))
        for _ in range(count)
    ]


def read(text: str) -> object:
    return parse_score(text, "stop", LENIENT, 0, 5)


def hide(text: str) -> object:
    return redact(text, LENIENT)


def bare(text: str) -> object:
    found = BARE.findall(text)
    return float(found[-1]) if found else None


def of_column(texts: Sequence[str]) -> float:
    """Microseconds of one text on average, read as a column."""
    keys = {"prompt_id": "p", "candidate_id": "c", "vote": 0, "finish_reason": "stop", "tokens": 1, "logprob": None}
    column = pl.DataFrame({"text": texts}).with_columns(**{key: pl.lit(value) for key, value in keys.items()})
    return microseconds(lambda _: parse_votes(column, ScoreSection()), [""]) / len(texts)


def microseconds(side: Callable[[str], Any], texts: Sequence[str]) -> float:
    """Of one text, on average."""
    start = time.perf_counter()
    for text in texts:
        side(text)
    return (time.perf_counter() - start) / len(texts) * 1e6


if __name__ == "__main__":
    main()
