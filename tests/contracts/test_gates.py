"""A gate warns, then stops."""

import pytest

from stages.contracts.errors import StageError
from stages.contracts.gates import gate


def test_a_gate_warns_near_its_limit_and_stops_beyond_it(capsys: pytest.CaptureFixture[str]) -> None:
    gate(30, 100, 0.4, "rows are odd", "mend them")
    gate(0, 0, 0.4, "rows are odd", "mend them")
    assert capsys.readouterr().err == ""
    gate(31, 100, 0.4, "rows are odd", "mend them")
    gate(40, 100, 0.4, "rows are odd", "mend them")
    assert capsys.readouterr().err.splitlines() == [
        "warning: 31 of 100 rows are odd (31.0%, limit 40.0%): mend them",
        "warning: 40 of 100 rows are odd (40.0%, limit 40.0%): mend them",
    ]
    with pytest.raises(StageError, match=r"^41 of 100 rows are odd \(41.0%, limit 40.0%\): mend them$"):
        gate(41, 100, 0.4, "rows are odd", "mend them")


def test_a_limit_of_1_is_no_gate(capsys: pytest.CaptureFixture[str]) -> None:
    gate(100, 100, 1.0, "rows are odd", "mend them")
    assert capsys.readouterr().err == ""
