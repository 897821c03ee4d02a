"""What a model gained over the one before, prompt by prompt."""

import math
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from stages.algorithms.gains import gains, verdict
from stages.contracts.schema import frame
from stages.tables import CHECK_EVALUATIONS, EVALUATIONS, JUDGE_EVALUATIONS


def answers(model: int, prompts: dict[str, list[float | None]], decoding: str = "sample") -> pl.DataFrame:
    """Rows of `evaluations`: the quality of each prompt's samples; its length is 10 tokens more per model."""
    rows = [
        {"prompt_id": prompt, "decoding": decoding, "sample": sample, "quality": value, "tokens": 20 + 10 * model}
        for prompt, qualities in prompts.items() for sample, value in enumerate(qualities)
    ]  # fmt: skip
    return frame(EVALUATIONS, rows).with_columns(model=pl.lit(model, pl.Int64))


def judged(model: int, prompts: dict[str, list[float | None]]) -> pl.DataFrame:
    """Rows of `judge_evaluations`: the scores of each prompt's answers, the best one first."""
    rows = [
        {"prompt_id": prompt, "candidate_id": f"{prompt}-{rank}", "rank": rank, "score": score}
        for prompt, scores in prompts.items() for rank, score in enumerate(scores)
    ]  # fmt: skip
    return frame(JUDGE_EVALUATIONS, rows).with_columns(model=pl.lit(model, pl.Int64))


NONE = judged(0, {})
UNCHECKED = frame(CHECK_EVALUATIONS, []).with_columns(model=pl.lit(0, pl.Int64))


def by_metric(rows: list[dict[str, Any]]) -> dict[tuple[int, str], tuple[float, float | None, float | None, int]]:
    return {(row["model"], row["metric"]): (row["value"], row["low"], row["high"], row["n"]) for row in rows}


def test_gains_by_hand() -> None:
    """The prompts' means go from 1, 5, 3 to 2, 5, 5: gains 1, 0, 2 with mean 1 and standard error sqrt(1 / 3)."""
    before = answers(0, {"p": [0.0, 2.0], "q": [5.0, 5.0], "r": [3.0, 3.0]})
    after = answers(1, {"r": [5.0, 5.0], "q": [5.0, 5.0], "p": [2.0, 2.0]})
    half = stats.t.ppf(0.975, 2) * math.sqrt(1 / 3)
    found = by_metric(gains(pl.concat([before, after]), NONE, UNCHECKED))
    assert found == {
        (1, "quality"): pytest.approx((1, 1 - half, 1 + half, 3)),
        (1, "tokens"): (10, None, None, 3),
    }


def test_both_decodings_and_the_judge_are_compared() -> None:
    """Of the pairs of p, 1 of 3 and then 3 of 3 are in order, of q 1 of 1 each time: 4 of 4 less 2 of 4."""
    greedy = pl.concat([answers(0, {"p": [1.0]}, "greedy"), answers(1, {"p": [4.0]}, "greedy")])
    before = judged(0, {"p": [2.0, 3.0, 2.5], "q": [5.0, 1.0]})
    after = judged(1, {"p": [3.0, 2.0, 1.0], "q": [5.0, 1.0]})
    found = by_metric(gains(greedy, pl.concat([after, before]), UNCHECKED))
    assert found[1, "quality_greedy"] == (3, None, None, 1)
    value, low, high, n = found[1, "judge_accuracy"]
    assert (value, n) == (0.5, 2)
    assert low is not None and high is not None and -1 <= low <= 0.5 <= high <= 1  # noqa: PT018


def test_only_prompts_that_both_models_have_are_compared() -> None:
    before, after = answers(-1, {"p": [1.0], "q": [0.0]}), answers(0, {"p": [2.0], "r": [5.0]})
    unmeasured = answers(1, {"p": [None], "r": [None]})
    found = by_metric(gains(pl.concat([before, after, unmeasured]), NONE, UNCHECKED))
    assert found[0, "quality"] == (1, None, None, 1)
    assert (1, "quality") not in found, "the oracle did not say"
    assert found[1, "tokens"] == (10, None, None, 2)
    assert gains(before, NONE, UNCHECKED) == gains(answers(0, {}), NONE, UNCHECKED) == []


@given(
    st.dictionaries(st.sampled_from("pqrstu"), st.lists(st.floats(0, 5), min_size=1, max_size=3), min_size=2),
    st.randoms(),
)
def test_the_order_of_rows_does_not_matter(prompts: dict[str, list[float | None]], random: Any) -> None:
    shuffled = dict(random.sample(sorted(prompts.items()), len(prompts)))
    other = {prompt: [5 - (value or 0) for value in values] for prompt, values in prompts.items()}
    first = gains(pl.concat([answers(0, prompts), answers(1, other)]), NONE, UNCHECKED)
    assert gains(pl.concat([answers(1, other), answers(0, shuffled)]), NONE, UNCHECKED) == first


def test_followed_instructions_are_compared_prompt_by_prompt() -> None:
    """p follows one of two instructions and then both, q none and then none: prompts gain a half, instructions a
    quarter."""
    passed = {0: {"p": [True, False], "q": [False, False]}, 1: {"p": [True, True], "q": [False, False]}}
    rows = [
        {"decoding": "sample", "prompt_id": prompt, "sample": 0, "check": number, "instruction": f"kind:{number}",
         "strict": strict, "loose": True, "model": model}
        for model, prompts in passed.items() for prompt, given in prompts.items() for number, strict in enumerate(given)
    ]  # fmt: skip
    found = by_metric(gains(answers(0, {}), NONE, pl.DataFrame(rows)))
    assert {key: row[0] for key, row in found.items()} == {
        (1, "prompt_strict"): 0.5, (1, "instruction_strict"): 0.25, (1, "prompt_loose"): 0.0,
        (1, "instruction_loose"): 0.0, (1, "follows:kind:0"): 0.0, (1, "follows:kind:1"): 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (0.5, 0.1, 0.9, "better"),
        (-0.5, -0.9, -0.1, "worse"),
        (0.5, None, None, "no spread was seen"),
        (0.0, -0.1, 0.1, "cannot tell from 100 prompts"),
        # The interval reaches twice as far as the gain: four times as many prompts.
        (-0.1, -0.3, 0.1, "cannot tell from 100 prompts; if it is that much, about 400 would"),
    ],
)
def test_a_gain_in_words(value: float, low: float | None, high: float | None, words: str) -> None:
    assert verdict({"value": value, "low": low, "high": high, "n": 100}) == words
