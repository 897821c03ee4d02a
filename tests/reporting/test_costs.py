"""What the stages took, from the clocks that Snakemake keeps."""

from pathlib import Path

import pytest

from stages.contracts.errors import StageError
from stages.reporting.costs import clocks, cost_grids
from tests.support import synthetic_rules as made


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for job, row in made.CLOCKS.items():
        path = tmp_path / "benchmarks" / job
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\tmax_rss\n{row.rsplit(chr(9), 1)[0]}\n")
    return tmp_path


def test_each_stage_has_its_time_memory_and_speed(run: Path) -> None:
    (grid,) = cost_grids(clocks(run), {"judge": 1234.5, "sft": 2.0, "candidates": 7.0}, {"sft": 3072.0})
    assert (grid.section, grid.head) == (
        "Cost",
        ["Stage", "Jobs", "Time", "Of all", "Peak memory", "Of a rank", "Tokens/s"],
    )
    assert grid.rows == [
        ["judge", "2", "1:00:30", "90.8%", "2.00 GiB", "", "1,234"],
        ["eft_judge", "1", "0:03:20", "5.0%", "0.50 GiB", "", ""],
        ["sft", "1", "0:02:49", "4.2%", "1.50 GiB", "3.00 GiB", "2"],
        ["ingest", "1", "0:00:00", "0.0%", "", "", ""],
        ["base_model", "1", "0:00:00", "0.0%", "", "", ""],
    ]


def test_a_run_without_clocks_has_no_costs(tmp_path: Path) -> None:
    assert cost_grids(clocks(tmp_path), {"judge": 5.0}, {}) == []


@pytest.mark.parametrize("text", ["", "s\th:m:s\n1\t2\n", "s\tmax_rss\nsoon\t1\n"])
def test_another_file_is_refused(run: Path, text: str) -> None:
    (run / "benchmarks/judge/1-000.tsv").write_text(text)
    with pytest.raises(StageError, match=r"judge/1-000\.tsv: not a benchmark of Snakemake: "):
        clocks(run)
