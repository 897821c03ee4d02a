"""Models head to head in a real run: what is compared with what, by whom, and what another judge makes anew."""

from pathlib import Path

import polars as pl
import pytest

from stages import tables
from stages.contracts.artifacts import provenance
from stages.model_files.manifest import model_digest
from tests.support.workflow_run import NO_EFT, ROOT, Run, merge

pytestmark = pytest.mark.slow

SMALL = {
    "run": {"iterations": 2, "shards": 1},
    "select": {"prompts": 24},
    "meta_judge": {"enabled": False},
    "pairs": {"judge_share": 0.0},
    "train": {"epochs": 1},
    "evaluate": {"max_prompts": 6, "samples": 1, "head_to_head": {"enabled": True}},
}
MATCHES = {("1", "0"), ("2", "0"), ("2", "1")}


def test_each_model_is_compared_with_the_one_before_and_with_model_0(tmp_path: Path) -> None:
    # As short as the demo's model needs it, and in the form in which it has learnt to compare.
    template = (ROOT / "prompts/tinyworld/meta_judge.jinja").read_text().replace("Response: {{ response }}\n", "")
    (tmp_path / "compare.jinja").write_text(template.replace("judgement_", "response_"))
    judge = {"template": str(tmp_path / "compare.jinja"), "sampling": {"max_tokens": 120}}
    run = Run(tmp_path, merge(merge(NO_EFT, SMALL), {"evaluate": {"head_to_head": judge}}))
    run.snakemake()
    files = sorted(run.path.glob("evaluation/*/against-*/comparisons.parquet"))
    assert {(path.parts[-3], path.parts[-2].removeprefix("against-")) for path in files} == MATCHES
    assert {provenance(path)["model"] for path in files} == {model_digest(run.path / "models/0")}
    for path in files:
        compared = run.table(str(path.relative_to(run.path)), tables.COMPARISONS)
        assert compared.height == 6 * 2 * 2
        assert "error" not in compared["parse_status"]
        assert not compared.filter(pl.col("text") != "").is_empty()
    rates = run.table("evaluation/2/against-1/win_rates.parquet", tables.WIN_RATES)
    assert {"unparsed", "unparsed_greedy"} <= set(rates["metric"])
    assert "Head to head, sampled" in (run.path / "report.html").read_text(encoding="utf-8")
    assert "Nothing to be done" in run.snakemake("--dry-run")

    # Another judge compares anew, and judges no candidate; without comparisons only the report is another.
    longer = {"evaluate": {"head_to_head": {"sampling": {"max_tokens": 50}}}}
    assert run.planned(**longer) == {"compare": 3, "report": 1}
    assert run.planned(evaluate={"head_to_head": {"enabled": False}}) == {"report": 1}
