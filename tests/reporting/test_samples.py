"""The prompts that a report follows: a mix of all outcomes, and texts split at their verdicts."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from stages.reporting.samples import sample_prompts, split_at


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("xyz"), st.sampled_from("xyz")), min_size=1))
def test_sample_mixes_all_outcomes(rows: list[tuple[int, str, str]]) -> None:
    outcome = {f"{number:04x}": (actor, judge) for number, actor, judge in rows}
    flat = [(key, kind, value) for key, pair in outcome.items() for kind, value in zip("ab", pair, strict=True)]
    results = pl.DataFrame(flat, schema=["prompt_id", "kind", "outcome"], orient="row")
    everything = sample_prompts(results, 1000)
    kinds = len(set(outcome.values()))
    assert sorted(everything) == sorted(outcome)
    assert {outcome[key] for key in everything[:kinds]} == set(outcome.values())
    assert sample_prompts(results.reverse(), kinds) == everything[:kinds]


@given(st.text(), st.text(), st.text())
def test_split_counts_characters(before: str, verdict: str, after: str) -> None:
    span = [len(before), len(before) + len(verdict)]
    assert split_at(before + verdict + after, span) == [before, verdict, after]
    assert split_at(before, None) == [before]
