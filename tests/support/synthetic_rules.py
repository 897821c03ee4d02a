"""The rules of the made-up run, by which a test can work out every expected value by itself."""

from typing import Any

from stages.contracts import ids

ITERATIONS, PROMPTS_EACH, SAMPLES, VOTES_EACH = 3, 40, 4, 3
META_JUDGED = (1, 2)
CREATING, LEFT_OVER = 2, 1
VALIDATED = 2
"""The iteration that measures held-out data, before the first step and after every fifth one."""
CREATED, NOT_CREATED = 6, ["duplicate", "similar", "similar", "long"]
EFT_REASONS = {0: "order", 1: "order", 2: "no_match", 5: "balance"}
"""Why a judgement of a ranked response is not trained on, by its number modulo 7; the others are kept."""
SCRIPT = "</script><img src=x onerror=\"document.title='pwned'\"><!-- & \u2028 -->"
TEMPLATE = "{{ 7*7 }} {% raw %}"
SETTINGS: dict[str, Any] = {
    "judgements": {"votes": VOTES_EACH, "sampling": {"temperature": 0.8}},
    "score": {"low": 0.0, "high": 5.0},
    "train": {"batch_size": 8},
    "evaluate": {
        "samples": 1, "sampling": {"temperature": 0.7}, "judge_votes": 3, "judge": {"sampling": {"temperature": 0.9}},
    },
}  # fmt: skip
"""What files say of the settings that made them, by stage."""
CLOCKS = {
    "ingest.tsv": "0.40\t0:00:00\t-\t0.4",
    "judge/1-000.tsv": "30.5\t0:00:30\t1024.00\t30",
    "judge/1-001.tsv": "3600.0\t1:00:00\t2048.00\t3600",
    "eft/judge-000.tsv": "200.0\t0:03:20\t512.00\t200",
    "report.tsv": "9.9\t0:00:09\t9999.00\t9.9",
    "base_model.tsv": "0.10\t0:00:00\t0.00\t0.1",
    "eft/sft-0.tsv": "169.1\t0:02:49\t1536.00\t300",
}
"""Snakemake's benchmarks of some jobs: seconds, the same as a clock, most memory in MiB, seconds of the processor."""


def question(iteration: int, number: int) -> str:
    """Text of a prompt; numbers 0 and 1 carry hostile text."""
    return f"Question {number} of iteration {iteration}? " + {0: SCRIPT, 1: TEMPLATE}.get(number, "")


def prompt_key(iteration: int, number: int) -> str:
    return ids.prompt_id(messages(iteration, number))


def messages(iteration: int, number: int) -> list[ids.Message]:
    turns = [{"role": "user", "content": question(iteration, number)}]
    earlier = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hello, what is it?"}]
    return earlier + turns if number % 7 == 0 else turns


def vote_score(iteration: int, number: int, sample: int, vote: int) -> float | None:
    """Every eighth prompt is a tie, every 13th vote cannot be read."""
    if number % 8 == 3:
        return 3.0
    if (number + 5 * sample + vote) % 13 == 12:
        return None
    return float((number + 2 * sample + vote * (number % 3) + iteration) % 6)


def judgement(score: float | None, sample: int) -> str:
    """An emoji stands before the verdict: spans count characters, not UTF-16 units."""
    verdict = "no verdict" if score is None else f"Score: {score:g}"
    return f"\U0001f600 Candidate {sample}. Score: 9 is quoted. {SCRIPT if sample == 1 else ''}\n{verdict} <end>"


def response(iteration: int, number: int, sample: int) -> str:
    return f"Answer {sample} to question {number} of iteration {iteration}. {SCRIPT if sample == 2 else ''}"


def held_out(step: int) -> list[dict[str, Any]]:
    """Readings of the held-out data after a step."""
    values = {"loss": 0.693 - 0.005 * step, "accuracy": 0.5 + 0.005 * step, "answer_loss": 2 - 0.02 * step}
    return [{"step": step, "metric": f"validation/{name}", "value": value} for name, value in values.items()]


def eft_score(number: int) -> float | None:
    """Score of a judgement of a ranked response, three for each of 20 responses."""
    return None if EFT_REASONS.get(number % 7) == "no_match" else float(number % 6)


def speed(iteration: int) -> list[dict[str, Any]]:
    """Two steps of a second each, of 100 and 300 tokens; the second one needs more memory: 1 GiB and 2, and as many
    halves more as the iteration's number."""
    steps = ((1, 100.0, 1.0), (2, 300.0, 2.0))
    readings = [
        (step, {"seconds": 1.0, "tokens_per_second": tokens, "peak_memory": 1024 * (peak + iteration / 2)})
        for step, tokens, peak in steps
    ]
    return [{"step": step, "metric": name, "value": value} for step, row in readings for name, value in row.items()]
