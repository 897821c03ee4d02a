"""Models head to head in a real run: what is compared with what, by whom, and what another judge makes anew."""

import re
from pathlib import Path

import polars as pl
import pytest

from stages import tables
from stages.contracts.artifacts import provenance
from stages.model_files.manifest import model_digest
from tests.support.workflow_run import NO_EFT, ROOT, Run, merge

pytestmark = pytest.mark.slow

SMALL = {
    "run": {"iterations": 1, "shards": 1},
    "select": {"prompts": 16},
    "meta_judge": {"enabled": False},
    "pairs": {"judge_share": 0.0},
    "train": {"epochs": 1},
    "evaluate": {"max_prompts": 6, "samples": 1},
}


def test_a_model_is_compared_with_model_0_by_model_0(tmp_path: Path) -> None:
    # As short as the demo's model needs it, and in the form in which it has learnt to compare.
    template = (ROOT / "prompts/tinyworld/meta_judge.jinja").read_text().replace("Response: {{ response }}\n", "")
    (tmp_path / "compare.jinja").write_text(template.replace("judgement_", "response_"))
    judge = {"enabled": True, "template": str(tmp_path / "compare.jinja"), "sampling": {"max_tokens": 120}}
    run = Run(tmp_path, merge(merge(NO_EFT, SMALL), {"evaluate": {"head_to_head": judge}}))
    said = run.snakemake()
    for rule, numbers in {"pairs 1": r"\d+ actor and 0 judge pairs", "train 1": r"step 1/1  loss 0\.6\d+"}.items():
        assert re.search(rf"^  {rule}: {numbers}", said, re.MULTILINE), "the terminal tells how jobs went"
    (path,) = run.path.glob("evaluation/*/against-*/comparisons.parquet")
    assert path == run.path / "evaluation/1/against-0/comparisons.parquet"
    assert provenance(path)["model"] == model_digest(run.path / "models/0")
    compared = run.table("evaluation/1/against-0/comparisons.parquet", tables.COMPARISONS)
    assert compared.height == 6 * 2 * 2
    assert "error" not in compared["parse_status"]
    assert not compared.filter(pl.col("text") != "").is_empty()
    rates = run.table("evaluation/1/against-0/win_rates.parquet", tables.WIN_RATES)
    assert {"unparsed", "unparsed_greedy"} <= set(rates["metric"])
    assert "Head to head, sampled" in (run.path / "report.html").read_text(encoding="utf-8")
    assert "Nothing to be done" in run.snakemake("--dry-run")

    # Another judge compares anew and does nothing else; without comparisons only the report is another.
    shorter = {"evaluate": {"head_to_head": {"sampling": {"max_tokens": 50}}}}
    assert run.planned(**shorter) == {"compare": 1, "report": 1}
    assert run.planned(evaluate={"head_to_head": {"enabled": False}}) == {"report": 1}
