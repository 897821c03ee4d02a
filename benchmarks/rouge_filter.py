"""The ROUGE-L filter at the size of one run: 20,000 new prompts against 20,000 kept ones and among themselves.

    python benchmarks/rouge_filter.py

The prompts are synthetic and the same every time: an opening (of a few hundred, some much more frequent than others),
then words of a Zipf distribution over a made-up vocabulary; a part of them rewords an earlier prompt, so that the
filter has something to find. `--texts` takes prompts of a JSONL file with a `prompt` text instead.

The `rouge_score` package, as Self-Instruct uses it, scores a sample of the same pairs, one by one; its time for all of
them is extrapolated from that. Both answers are compared on the sample. Results go to benchmarks/results.
"""

import argparse
import datetime
import json
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

from rapidfuzz.distance import LCSseq
from rouge_score.rouge_scorer import RougeScorer

from stages.algorithms.similarity import Match, dice, near_duplicates, rouge_l, similar, words

T = TypeVar("T")

LIMIT = 0.7
NEAR_LIMIT = 0.9
VOCABULARY = 30_000
OPENINGS = 400
REWORDED = 0.25

SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstv" for vowel in "aeiou"]
FUNCTION_WORDS = ["the", "of", "a", "and", "to", "in", "is", "for", "with", "that", "on", "as", "it", "are", "by"]


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--given", type=int, default=20_000, help="prompts that are kept already")
    parser.add_argument("--new", type=int, default=20_000, help="prompts to filter")
    parser.add_argument("--sample", type=int, default=20_000, help="pairs that rouge_score scores")
    parser.add_argument("--texts", type=Path, help="JSONL file with prompts to use instead of synthetic ones")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/rouge_filter.json"))
    options = parser.parse_args()
    texts = _read(options.texts) if options.texts else synthetic(options.given + options.new)
    given, new = texts[: options.given], texts[options.given : options.given + options.new]
    seconds, dropped = timed(lambda: similar(given, new, LIMIT))
    near_seconds, near = timed(lambda: near_duplicates(given, new, NEAR_LIMIT))
    pairs = len(new) * len(given) + len(new) * (len(new) - 1) // 2
    sample_seconds = score_sample(given, new, options.sample)
    check_sample(given, new, dropped)
    result = {
        "date": datetime.date.today().isoformat(),
        "hardware": {"cpu": _processor(), "cores": os.cpu_count(), "system": platform.system()},
        "given": len(given),
        "new": len(new),
        "words_per_prompt": round(sum(len(text.split()) for text in texts) / len(texts), 1),
        "pairs": pairs,
        "rouge_l_filter_seconds": round(seconds, 2),
        "rouge_l_dropped": len(dropped),
        "near_duplicate_filter_seconds": round(near_seconds, 2),
        "near_duplicate_dropped": len(near),
        "rouge_score_pairs_measured": options.sample,
        "rouge_score_seconds_measured": round(sample_seconds, 2),
        "rouge_score_seconds_extrapolated": round(sample_seconds / options.sample * pairs),
    }
    report(result)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")


def synthetic(count: int, seed: int = 0) -> list[str]:
    """Prompts with openings and words as uneven as in real text; the same for the same count and seed."""
    draw = random.Random(seed)
    names = {"".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(2 * VOCABULARY)}
    vocabulary = [*FUNCTION_WORDS, *sorted(names, key=lambda name: (len(name), draw.random()))][:VOCABULARY]
    weights = list(accumulate(1 / rank for rank in range(1, len(vocabulary) + 1)))

    def some_words(number: int) -> list[str]:
        return draw.choices(vocabulary, cum_weights=weights, k=number)

    openings = [some_words(draw.randint(2, 6)) for _ in range(OPENINGS)]
    opening_weights = list(accumulate(1 / rank for rank in range(1, OPENINGS + 1)))
    prompts: list[list[str]] = []
    for _ in range(count):
        if prompts and draw.random() < REWORDED:
            share = draw.random() ** 2
            prompt = [some_words(1)[0] if draw.random() < share else word for word in draw.choice(prompts)]
        else:
            opening = draw.choices(openings, cum_weights=opening_weights)[0]
            prompt = [*opening, *some_words(max(3, round(draw.lognormvariate(2.9, 0.6))))]
        prompts.append(prompt)
    return [" ".join(prompt).capitalize() + "." for prompt in prompts]


def score_sample(given: list[str], new: list[str], sample: int) -> float:
    """Seconds that rouge_score takes for random pairs; checks that both give the same numbers."""
    draw = random.Random(1)
    pairs = [(draw.choice(given), draw.choice(new)) for _ in range(sample)]
    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    seconds, values = timed(lambda: [scorer.score(one, other)["rougeL"].fmeasure for one, other in pairs])
    for (one, other), value in zip(pairs, values, strict=True):
        if abs(value - rouge_l(one, other)) > 1e-9:
            sys.exit(f"rouge_score says {value}, we say {rouge_l(one, other)}: {one!r}, {other!r}")
    return seconds


def check_sample(given: list[str], new: list[str], dropped: dict[int, Match], rows: int = 50) -> None:
    """Exit unless a full comparison of some new prompts, dropped and kept alike, agrees with the filter."""
    texts = [words(text) for text in (*given, *new)]
    for row in random.Random(2).sample(range(len(new)), min(rows, len(new))):
        mine = texts[len(given) + row]
        kept = [number for number in range(len(given) + row) if number - len(given) not in dropped]
        nearest = max(dice(LCSseq.similarity(texts[number], mine), len(texts[number]) + len(mine)) for number in kept)
        if (nearest > LIMIT) != (row in dropped):
            sys.exit(f"new prompt {row} has similarity {nearest} to a kept one, but the filter decided otherwise")


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds that `work` took, and what it gave."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def report(result: dict[str, object]) -> None:
    """The table, on stdout."""
    print(f"{result['new']} new prompts against {result['given']} kept ones: {result['pairs']:,} pairs")
    print(f"{'':34}{'seconds':>12}{'dropped':>10}")
    print(f"{'ROUGE-L filter':34}{result['rouge_l_filter_seconds']:>12}{result['rouge_l_dropped']:>10}")
    near = result["near_duplicate_filter_seconds"], result["near_duplicate_dropped"]
    print(f"{'near-duplicate filter':34}{near[0]:>12}{near[1]:>10}")
    print(f"{'rouge_score (extrapolated)':34}{result['rouge_score_seconds_extrapolated']:>12}{'':>10}")
    measured = result["rouge_score_pairs_measured"], result["rouge_score_seconds_measured"]
    print(f"rouge_score was measured on {measured[0]:,} random pairs: {measured[1]} s")


def _read(path: Path) -> list[str]:
    return [json.loads(line)["prompt"] for line in path.read_text(encoding="utf-8").splitlines()]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
