"""Models head to head in a real run: what is compared with what, by whom, and what another judge makes anew."""

import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from stages import tables
from stages.contracts.artifacts import provenance, read
from stages.model_files.manifest import model_digest
from tests.support.workflow_run import ROOT, Run, merge

pytestmark = pytest.mark.slow


def test_a_model_is_compared_with_model_0_by_model_0(finished: Run, tmp_path: Path) -> None:
    # As short as the demo's model needs it, and in the form in which it has learnt to compare.
    template = (ROOT / "prompts/tinyworld/meta_judge.jinja").read_text().replace("Response: {{ response }}\n", "")
    (tmp_path / "compare.jinja").write_text(template.replace("judgement_", "response_"))
    judge = {"enabled": True, "template": str(tmp_path / "compare.jinja"), "sampling": {"max_tokens": 120}}
    # A copy of the run, of which all is done but the comparison, and whose second iteration does not count.
    path = tmp_path / finished.path.name
    shutil.copytree(finished.path, path, symlinks=True)
    copy = {"run": {"results": str(tmp_path), "iterations": 1}, "evaluate": {"head_to_head": judge}}
    assert finished.planned(**copy) == {"compare": 1, "report": 1}
    said = finished.snakemake(**copy)
    assert re.search(r"^  compare 1-0: unparsed 0\.\d+", said, re.MULTILINE), "the terminal tells how jobs went"
    (comparisons,) = path.glob("evaluation/*/against-*/comparisons.parquet")
    assert comparisons == path / "evaluation/1/against-0/comparisons.parquet"
    assert provenance(comparisons)["model"] == model_digest(path / "models/0")
    compared = read(comparisons, tables.COMPARISONS)
    assert compared.height == 60 * 3 * 2, "prompts, answers, orders"
    assert "error" not in compared["parse_status"]
    assert not compared.filter(pl.col("text") != "").is_empty()
    rates = read(path / "evaluation/1/against-0/win_rates.parquet", tables.WIN_RATES)
    assert {"unparsed", "unparsed_greedy"} <= set(rates["metric"])
    assert "Head to head, sampled" in (path / "report.html").read_text(encoding="utf-8")
    assert "Nothing to be done" in finished.snakemake("--dry-run", **copy)

    # Another judge compares anew and does nothing else; without comparisons only the report is another.
    shorter = merge(copy, {"evaluate": {"head_to_head": {"sampling": {"max_tokens": 50}}}})
    assert finished.planned(**shorter) == {"compare": 1, "report": 1}
    assert finished.planned(**merge(copy, {"evaluate": {"head_to_head": {"enabled": False}}})) == {"report": 1}
