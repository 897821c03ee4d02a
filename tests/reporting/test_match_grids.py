"""The report's tables of models head to head."""

from typing import Any

import pytest

from stages.contracts.schema import frame
from stages.reporting.match_grids import in_words, match_grids
from stages.tables import WIN_RATES


def rate(metric: str, value: float, low: float | None = None, high: float | None = None, **more: Any) -> dict[str, Any]:
    return {"model": 1, "other": "0", "metric": metric, "value": value, "low": low, "high": high, "n": 50, **more}


def test_each_decoding_has_a_table_with_a_row_for_each_two_models() -> None:
    rows = [
        rate("win_rate", 0.62, 0.52, 0.72), rate("win_rate_length_controlled", 0.6, 0.51, 0.69),
        rate("longer_by", 12.34), rate("tie_share", 0.25), rate("unparsed", 0.02),
        rate("unparsed", 1.0, model=2, other="references"), rate("win_rate_greedy", 0.5),
    ]  # fmt: skip
    sampled, greedy = match_grids(frame(WIN_RATES, rows))
    assert (sampled.section, sampled.title) == ("Does it get better?", "Head to head, sampled")
    assert sampled.head == [
        *("Model", "Against", "Wins", "Wins at equal length", "Longer by", "Ties", "Unparsed", "In words"),
    ]  # fmt: skip
    assert sampled.rows == [
        ["1", "0", "62.0% ± 10.0%", "60.0% ± 9.0%", "+12.3", "25.0%", "2.0%", "better"],
        ["2", "references", "", "", "", "", "100.0%", ""],
    ]
    assert (greedy.title, greedy.rows) == ("Head to head, greedy", [["1", "0", "50.0%", "", "", "", "", ""]])


def test_without_comparisons_there_is_no_table() -> None:
    assert match_grids(frame(WIN_RATES, [])) == []


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0.7, 0.6, 0.8), "better"),
        ((0.3, 0.2, 0.4), "worse"),
        ((0.5, 0.4, 0.6), "cannot tell from 50 prompts"),
        # An interval of 0.25 to each side around 0.125 more than one half: 50 * (0.25 / 0.125) ** 2.
        ((0.625, 0.375, 0.875), "cannot tell from 50 prompts; if it is that much, about 200 would"),
        ((0.5, None, None), "no spread was seen"),
    ],
)
def test_a_win_rate_is_worded_as_a_gain_over_one_half(ends: Any, words: str) -> None:
    assert in_words(rate("win_rate", *ends)) == words
