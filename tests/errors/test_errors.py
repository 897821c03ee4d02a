"""Bad input gets one line that says what is wrong, an exit code, and nothing written."""

from pathlib import Path

import pytest

from tests.errors.cases import CASES, Case
from tests.errors.page import HEAD, PAGE, line, outcome


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_bad_input_is_told_as_the_page_says_and_nothing_is_written(case: Case, tmp_path: Path) -> None:
    found = outcome(case, tmp_path)
    assert found.code in (1, 2)
    assert found.left == set()
    assert "\n" not in found.message
    assert "Traceback" not in found.message
    if found.code == 1:  # the others are argparse's, which words them as the version of Python does
        assert line(case, found) in PAGE.read_text(encoding="utf-8")


def test_the_page_has_these_cases_and_no_others() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith(HEAD)
    assert len(text.removeprefix(HEAD).splitlines()) == len(CASES) > 40
