"""The tables of a report."""

from stages.contracts.schema import frame
from stages.reporting import grids
from stages.tables import SUMMARY


def test_metrics_that_were_not_measured_have_no_column() -> None:
    rows = [{"model": 0, "metric": "tokens", "value": 12.0, "low": None, "high": None, "n": 3}]
    summary = frame(SUMMARY, rows)
    assert grids.by_model(summary, grids.HEADLINE) == (["Model", "Mean length"], [["0", "12.0"]])
    assert grids.judge_grids(summary) == []


def test_a_cell_says_how_far_the_interval_reaches_to_each_side() -> None:
    ends = [("quality", 2.0, 1.9, 2.1), ("judge_accuracy", 0.95, 0.9, 0.97)]
    ends += [("meta_accuracy", 1.0, 0.8, 1.0), ("tokens", 9.0, 7.0, 10.8)]
    rows = [{"model": 1, "metric": name, "value": value, "low": a, "high": b, "n": 9} for name, value, a, b in ends]
    head, cells = grids.by_model(frame(SUMMARY, rows), grids.HEADLINE)
    assert head == ["Model", "True quality", "Judge accuracy", "Meta-judge accuracy", "Mean length"]
    assert cells == [["1", "2.00 ± 0.10", "95.0% -5.0% +2.0%", "100.0% -20.0% +0.0%", "9.0 ± 1.9"]]


def test_followed_instructions_by_model_and_by_kind() -> None:
    values = {"prompt_strict": 0.5, "instruction_strict": 0.75, "prompt_strict_greedy": 0.25}
    values |= {"follows:punctuation:no_comma": 0.9, "follows:startend:quotation": 0.1}
    rows = [
        {"model": model, "metric": metric, "value": value + 0.1 * model, "low": None, "high": None, "n": 9}
        for model in (0, 1)
        for metric, value in values.items()
    ]
    sampled, greedy, kinds = grids.check_grids(frame(SUMMARY, rows))
    assert (sampled.head, sampled.rows[1]) == (
        ["Model", "Prompts, strict", "Instructions, strict"],
        ["1", "60.0%", "85.0%"],
    )
    assert greedy.rows == [["0", "25.0%"], ["1", "35.0%"]]
    assert kinds.head == ["Instruction", "0", "1"]
    assert kinds.rows == [["punctuation:no_comma", "90%", "100%"], ["startend:quotation", "10%", "20%"]]
    assert grids.check_grids(frame(SUMMARY, rows[:1])) == []
