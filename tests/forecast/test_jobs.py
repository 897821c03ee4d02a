"""The numbers of jobs are those of Snakemake's own dry run."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.config.whole import load
from stages.forecast.jobs import jobs
from tests.support.workflow_run import ROOT, Run, merge

WORLD = ROOT / "examples/tinyworld"
DEMO = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))
FILES = {
    "run": {"model": str(WORLD / "base")},
    "ingest": {"sources": [str(WORLD / "prompts.jsonl")]},
    "evaluate": {"prompts": str(WORLD / "held_out.jsonl")},
}
"""In place of those that a script would have to get first."""
SMOLLM2 = merge(yaml.safe_load((ROOT / "examples/smollm2/config.yaml").read_text(encoding="utf-8")), FILES)
EVERYTHING = merge(
    DEMO,
    {
        "run": {"shards": 3},
        "verify": {"enabled": True, "judge": True},
        "create": {"enabled": [False, True, True]},
        "eft": {"ift_fraction": 0.1},
        "judge": {"votes": 4, "panel": {"one": {}, "two": {}}},
        "meta_judge": {"enabled": False},
        "pairs": {"judge_share": 0.0},
    },
)
LEAST = merge(
    DEMO,
    {
        "eft": {"enabled": False},
        "evaluate": {"prompts": None, "meta_comparisons": 0},
        "ingest": {"validation_fraction": 0.1},
    },
)


@pytest.mark.parametrize(
    "config", [DEMO, SMOLLM2, EVERYTHING, LEAST], ids=["the demo", "SmolLM2", "all that there is", "the least"]
)
def test_as_many_jobs_as_in_a_dry_run(config: dict[str, Any], tmp_path: Path) -> None:
    run = Run(tmp_path, {})
    run.config = merge(config, {"run": {"results": str(tmp_path / "results")}})
    counts: dict[str, int] = {}
    for one in jobs(load(run.config)):
        counts[one.rule] = counts.get(one.rule, 0) + one.number
    assert counts == run.planned()
