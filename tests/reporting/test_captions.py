"""Captions say what the files say of themselves."""

from pathlib import Path

import pytest

from stages.contracts.artifacts import write
from stages.contracts.errors import StageError
from stages.contracts.schema import frame
from stages.reporting.captions import drawn, how_drawn
from stages.reporting.run_files import Source
from stages.tables import EVALUATIONS


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ([(1, 0.7)], "1 vote at temperature 0.7"),
        ([(3, 1.0), (3, 1.0)], "3 votes at temperature 1"),
        ([(4, 1), (2, 0.5), (4, 0.5)], "2 and 4 votes at temperatures 0.5 and 1"),
    ],
)
def test_each_number_and_temperature_is_named_once(made: list[tuple[int, float]], expected: str) -> None:
    assert drawn("vote", [(number, {"temperature": value, "top_k": 0}) for number, value in made]) == expected


def test_a_file_that_does_not_say_is_named(tmp_path: Path) -> None:
    path = tmp_path / "evaluation" / "0" / "evaluations.parquet"
    path.parent.mkdir(parents=True)
    write(frame(EVALUATIONS, []), path, EVALUATIONS, {"stage": "evaluate"})
    with pytest.raises(StageError, match=r"evaluation/0/evaluations\.parquet: does not say with which settings"):
        how_drawn(Source(tmp_path, 1))
