"""What the evidence of the real model measures, and the page that it writes."""

from pathlib import Path

import polars as pl
import pytest

from examples.smollm2.evidence import SCHEMA, costs
from examples.smollm2.evidence_page import write_page
from examples.smollm2.guard import faults, guard, topic_of
from stages.contracts.schema import frame
from stages.tables import CHECK_EVALUATIONS, EVALUATIONS
from tests.support.records import turns

FOXES = "Describe foxes in your own words. Give it a title in double angular brackets."
SILK = "Write a short text about silk. Stay under 30 words."
TITLE, WORDS = "detectable_format:title", "length_constraints:number_words"


def test_the_topic_of_a_prompt() -> None:
    assert topic_of("What should one know about repairing a bicycle? Avoid commas.") == "repairing a bicycle"
    with pytest.raises(ValueError, match="empty"):
        topic_of("Who is there?")


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("<<Foxes>> They hunt by night.", set()),
        ("<<Wolves>> They hunt by night.", {"off_topic"}),
        ("Foxes hunt by night. P.S. Bye.", {"unasked_form"}),
        ("Foxes " + "- " * 12, {"repetition"}),
    ],
)
def test_faults_of_an_answer_that_may_have_a_title(answer: str, found: set[str]) -> None:
    assert {fault for fault, has in faults(FOXES, {TITLE}, answer).items() if has} == found


def test_the_guard_counts_sampled_answers_and_the_length_of_those_that_may_be_long() -> None:
    answers = [
        ("foxes", FOXES, "sample", "<<Foxes>> They hunt.", 10, "stop"),
        ("silk", SILK, "sample", "Wool is warm.", 99, "length"),
        ("silk", SILK, "greedy", "Silk - - - - - - - - - - - - -", 50, "stop"),
    ]
    rows = [
        {"prompt_id": key, "decoding": decoding, "sample": 0, "messages": turns(prompt), "text": text, "tokens": tokens,
         "finish_reason": reason, "token_ids": [], "seed": 0}
        for key, prompt, decoding, text, tokens, reason in answers
    ]  # fmt: skip
    asked = {"foxes": TITLE, "silk": WORDS}
    checked = [
        {
            "prompt_id": key,
            "decoding": "sample",
            "sample": 0,
            "check": 0,
            "instruction": kind,
            "strict": True,
            "loose": True,
        }
        for key, kind in asked.items()
    ]
    found = guard(frame(EVALUATIONS, rows), frame(CHECK_EVALUATIONS, checked))
    values = dict(found.select("metric", "value").rows())
    assert values == {"off_topic": 0.5, "unasked_form": 0.0, "repetition": 0.0, "cut": 0.5, "free_tokens": 10.0}
    assert dict(found.select("metric", "n").rows())["free_tokens"] == 1


def test_costs_are_summed_over_a_rules_jobs_and_peaks_are_not(tmp_path: Path) -> None:
    for file, seconds, peak in (("train/1", 10, 500), ("train/2", 20, 700), ("ingest", 1, 90)):
        path = tmp_path / f"benchmarks/{file}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\tmax_rss\tcpu_time\n9\t{peak}\t{seconds}\n")
    found = {row["metric"]: row["value"] for row in costs(tmp_path)}
    expected = {"cpu_seconds:train": 30, "peak_mb:train": 700, "cpu_seconds:ingest": 1, "peak_mb:ingest": 90}
    assert found == expected


def test_the_page_shows_what_was_measured_and_says_what_was_not(tmp_path: Path) -> None:
    rows = [
        ("verify", 0, 0, "prompt_strict", 0.14, 0.105, 0.184, 300),
        ("verify", 0, 1, "prompt_strict", 0.2, 0.16, 0.25, 300),
        ("verify", 0, 0, "follows:keywords:letter_frequency", 0.25, 0.1, 0.5, 18),
        ("verify", 0, 1, "follows:keywords:letter_frequency", 0.5, 0.3, 0.7, 18),
        ("random", 2, 0, "follows:keywords:letter_frequency", 0.25, 0.1, 0.5, 18),
        ("random", 2, 2, "follows:keywords:letter_frequency", 0.3, 0.1, 0.5, 18),
        ("verify", 0, 1, "answer_loss", 1.5, None, None, None),
        ("verify", 0, 1, "pairs", 220.0, None, None, None),
        ("verify", 0, 1, "no_pair:tie", 38.0, None, None, None),
    ]
    write_page(pl.DataFrame(rows, schema=SCHEMA, orient="row"), tmp_path)
    page = (tmp_path / "smollm2.md").read_text()
    assert (
        "| prompts wholly followed, T=0.7 | checks (the example) | 0 | 14.0 % (10.5–18.4) | 20.0 % (16.0–25.0) |"
        in page
    )
    assert "| keywords:letter_frequency (never trained) | 25% | 50% | 30% |" in page
    assert "So far: checks (the example), seed 0 with 1 iteration; shuffled scores, seed 2 with 2 iterations." in page
    assert "| perplexity of real answers | checks (the example) | 0 | 4.48 |" in page
    assert "| no pair: tie | checks (the example) | 0 | 38 |" in page
    assert "Not measured yet." in page.partition("## IFEval")[2]
    assert "@" not in page
