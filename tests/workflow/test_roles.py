"""Roles in a real run: the policy and another model behind a real server judge together."""

import shlex
import sys
from pathlib import Path

import pytest

from stages import tables
from stages.contracts.artifacts import provenance
from stages.model_files.manifest import model_digest
from tests.support.workflow_run import NO_EFT, ROOT, Run, merge

pytestmark = pytest.mark.slow

COMMAND = f"{shlex.quote(sys.executable)} -m tests.support.llama_server {{model}} {{host}} {{port}} 4"
BASE = ROOT / "examples/tinyworld/base"
SERVED = {
    "backend": "openai",
    "max_sequence_length": 256,
    "server": {"kind": "llamacpp", "model": "tiny", "command": COMMAND, "concurrency": 4},
}
PANEL = {"policy": {}, "served": {"model": str(BASE), "engine": SERVED}}
FEW = merge(NO_EFT, {"select": {"prompts": 6}, "run": {"iterations": 1, "shards": 2}, "pairs": {"judge_share": 0.0}})
WITH_PANEL = merge(FEW, {"judge": {"votes": 4, "panel": PANEL}, "meta_judge": {"enabled": False}})


def test_a_panel_shares_the_votes_and_each_judge_is_a_job_of_its_own(tmp_path: Path) -> None:
    run = Run(tmp_path, WITH_PANEL)
    run.snakemake("--", f"{run.path}/iter-1/pairs.parquet")
    folder = run.path / "iter-1/judgements"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["000-policy.parquet", "000-served.parquet", "001-policy.parquet", "001-served.parquet"]
    votes = run.table("iter-1/votes.parquet", tables.VOTES)
    assert votes.height == 6 * 4 * 4
    assert votes.select("judge", "vote").unique().sort("judge", "vote").rows() == [
        ("policy", 0), ("policy", 2), ("served", 1), ("served", 3),
    ]  # fmt: skip
    assert provenance(folder / "000-served.parquet")["settings"]["engine"]["backend"] == "openai"
    assert provenance(folder / "000-served.parquet")["model"] == model_digest(BASE)
    assert run.table("iter-1/scores.parquet", tables.SCORES)["votes"].to_list() == [4] * 24

    # One judge's engine, and one judge alone: what does not depend on it stays.
    other = {"judge": {"panel": {"served": {"engine": {"dtype": "bfloat16"}}}}}
    assert run.planned(**other)["judge"] == 2
    run.config["judge"] |= {"votes": 2, "panel": {}}
    assert (run.planned()["judge"], run.planned().get("candidates", 0)) == (2, 0)
    run.snakemake("--", f"{run.path}/iter-1/scores.parquet")
    assert sorted(path.name for path in folder.iterdir()) == ["000.parquet", "001.parquet"]


def test_another_model_compares_the_policys_judgements(tmp_path: Path) -> None:
    meta_judge = {"enabled": True, "model": str(BASE), "engine": SERVED, "sampling": {"max_tokens": 16}}
    run = Run(tmp_path, merge(FEW, {"meta_judge": meta_judge}))
    target = f"{run.path}/iter-1/verdicts/000.parquet"
    run.snakemake("--", target)
    assert provenance(Path(target))["settings"]["engine"]["backend"] == "openai"
    judged = provenance(run.path / "iter-1/judgements/000.parquet")
    assert judged["settings"]["engine"]["backend"] == "torch"


def test_each_role_takes_the_gpus_of_its_engine(tmp_path: Path) -> None:
    """The policy's stage holds its own; a server holds its GPUs itself."""
    run = Run(tmp_path, WITH_PANEL)
    planned = run.snakemake("--dry-run", "-p", "--", f"{run.path}/iter-1/scores.parquet")
    lines = (line.removeprefix("Shell command:").strip() for line in planned.splitlines() if " -m stages." in line)
    commands = [line.rpartition(" -m stages.") for line in lines]
    leased = "python -m stages.contracts.gpus 1 python"
    starts = {(rest.split()[0], *rest.partition("--judge ")[2].split()[:1]): start for start, _, rest in commands}
    assert starts[("candidates",)] == starts["judge", "policy"] == leased
    assert starts["judge", "served"] == starts[("score",)] == "python"
