"""Profiles of clusters: each plans the demo, and the commands that talk to a scheduler say what it must hear.

The schedulers are doubles that write down how they are called, after their manuals; Slurm itself is in tests/slurm.
"""

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from stages import tables
from tests.support.workflow_run import NO_EFT, ROOT, Run, merge

PROFILES = ROOT / "workflow/profiles"
EXECUTORS = {"slurm": "slurm", "cluster-generic": "cluster_generic", "kubernetes": "cluster_generic"}
SUBMITTED = ("8", "96000", "120", "2", "job.sh")
KUBERNETES = {"KUBERNETES_IMAGE": "image:1", "KUBERNETES_CLAIM": "claim", "KUBERNETES_MOUNT": "/data"}
DOUBLE = '#!/bin/sh\n{{ echo "$*"; [ "$1" != create ] || cat; }} > "$0.called"\n{answer}\n'


def settings(profile: str) -> dict:
    return yaml.safe_load((PROFILES / profile / "profile.yaml").read_text())


QSUB = """#!/bin/sh
echo "$*" >> {folder}/called
for script; do :; done
(sh "$script"; echo $? > {folder}/ended) > {folder}/log 2>&1 &
echo 12.server
"""
QSTAT = """#!/bin/sh
if [ -f {folder}/ended ]; then echo "    job_state = F"; echo "    Exit_status = $(cat {folder}/ended)"; fi
"""


def plugin(profile: str) -> None:
    """Skip the test where there is no plugin for the profile."""
    if not importlib.util.find_spec(f"snakemake_executor_plugin_{EXECUTORS[profile]}"):
        pytest.skip(f"needs snakemake-executor-plugin-{EXECUTORS[profile].replace('_', '-')}")


@pytest.mark.slow
@pytest.mark.parametrize("profile", EXECUTORS)
def test_a_profile_plans_the_demo(profile: str, tmp_path: Path) -> None:
    plugin(profile)
    plan = Run(tmp_path, NO_EFT).snakemake("-n", "--workflow-profile", profile)
    assert f"Using workflow specific profile {PROFILES.relative_to(ROOT) / profile}" in plan
    assert dict(re.findall(r"^(candidates|train) +(\d+)$", plan, re.MULTILINE)) == {"candidates": "4", "train": "2"}


@pytest.mark.slow
def test_a_job_goes_through_the_commands_of_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a PBS that runs what it is given at once; rules of seconds are no jobs of it."""
    plugin("cluster-generic")
    for name, text in {"qsub": QSUB, "qstat": QSTAT}.items():
        (tmp_path / name).write_text(text.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    run = Run(tmp_path, merge(NO_EFT, {"select": {"prompts": 4}}))
    target = f"{run.path}/iter-1/candidates/000.parquet"
    run.snakemake("--workflow-profile", "cluster-generic", "--cores", "64", "--", target)
    answers = run.table("iter-1/candidates/000.parquet", tables.CANDIDATES)
    assert set(answers.group_by("prompt_id").len()["len"]) == {4}
    (called,) = (tmp_path / "called").read_text().splitlines()
    assert "-l select=1:ncpus=8:mem=96000mb:ngpus=1 -l walltime=14400 " in called


def test_profiles_agree_on_what_jobs_need_and_retry_on_one_level() -> None:
    slurm, *others = map(settings, EXECUTORS)
    for other in others:
        assert {key: other[key] for key in ("set-resources", "set-threads", "retries")} == {
            key: slurm[key] for key in ("set-resources", "set-threads", "retries")
        }
    assert slurm["retries"] == 2
    assert not any("requeue" in key for key in slurm)
    longest = max(eval(each["runtime"], {"attempt": 1 + slurm["retries"]}) for each in slurm["set-resources"].values())
    assert longest == 24 * 60


@pytest.mark.parametrize("profile", EXECUTORS)
def test_a_job_that_ran_out_of_memory_is_given_more(profile: str) -> None:
    for each in settings(profile)["set-resources"].values():
        asked = [eval(each["mem_mb"], {"attempt": attempt}) for attempt in (1, 2, 3)]
        assert asked == [asked[0], 1.5 * asked[0], 2 * asked[0]]
        assert asked[0] in (96_000, 400_000)


def test_what_would_fail_again_is_not_tried_again() -> None:
    """Rules of seconds fail for what they are given, as the gates of `score` do."""
    texts = [path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk")]
    local = set(re.findall(r"^ {4,8}(\w+),$", (ROOT / "workflow/Snakefile").read_text(), re.MULTILINE)) - {"all"}
    parts = [part for text in texts for part in re.split(r"^(?= *rule \w+:)", text, flags=re.MULTILINE)]
    once = {re.match(r" *rule (\w+)", part)[1] for part in parts if "retries: 0\n" in part}
    assert once == local >= {"score", "pairs", "eft", "ingest"}


@pytest.fixture
def scheduler(tmp_path: Path):
    """Makes a scheduler's commands that answer as told, and calls one of a profile's beside them."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for needed in ("sh", "sed", "awk", "tr", "mkdir", "cat"):
        (folder / needed).symlink_to(shutil.which(needed))

    def call(command: str, *arguments: str, **answers: str) -> str:
        for name, answer in answers.items():
            (folder / name).write_text(DOUBLE.format(answer=answer))
            (folder / name).chmod(0o755)
        environment = {"PATH": str(folder), "CLUSTER_OPTIONS": "-q long", **KUBERNETES}
        done = subprocess.run(
            [PROFILES / command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    call.heard = lambda name: (folder / f"{name}.called").read_text().strip()
    return call


def test_pbs(scheduler) -> None:
    assert scheduler("cluster-generic/submit", *SUBMITTED, qsub="echo 12.server") == "12.server"
    expected = (
        "-V -j oe -o .snakemake/cluster_logs -q long -l select=1:ncpus=8:mem=96000mb:ngpus=2 -l walltime=7200 job.sh"
    )
    assert scheduler.heard("qsub") == expected
    for told, status in {
        "    job_state = Q": "running",
        "    job_state = F\\n    Exit_status = 0": "success",
        "    job_state = F\\n    Exit_status = 143": "failed",
        "    job_state = F": "failed",
    }.items():
        assert scheduler("cluster-generic/status", "12", qstat=f"printf 'Job Id: 12\\n{told}\\n'") == status
    assert scheduler("cluster-generic/status", "12", qstat="exit 1") == "running"
    scheduler("cluster-generic/cancel", "12", "13", qdel="")
    assert scheduler.heard("qdel") == "12 13"


def test_grid_engine(scheduler) -> None:
    assert scheduler("cluster-generic/submit", *SUBMITTED, qacct="", qsub="echo 12") == "12"
    expected = (
        "-terse -V -cwd -j y -o .snakemake/cluster_logs -q long -l gpu=2 -pe smp 8 -l h_rt=7200,h_vmem=12000M job.sh"
    )
    assert scheduler.heard("qsub") == expected
    for code, status in {"0": "success", "137": "failed"}.items():
        ended = f"printf 'failed       0\\nexit_status  {code}\\n'"
        assert scheduler("cluster-generic/status", "12", qstat="exit 1", qacct=ended) == status
    assert scheduler("cluster-generic/status", "12", qstat="exit 0") == "running"


def test_lsf(scheduler) -> None:
    answer = "echo 'Job <12> is submitted to queue <long>.'"
    assert scheduler("cluster-generic/submit", *SUBMITTED, bsub=answer) == "12"
    resources = "-n 8 -W 120 -R span[hosts=1] rusage[mem=96000MB] -o .snakemake/cluster_logs/%J.log job.sh"
    assert scheduler.heard("bsub") == f"-q long -gpu num=2 {resources}"
    for told, status in {"PEND": "running", "DONE": "success", "EXIT": "failed"}.items():
        assert scheduler("cluster-generic/status", "12", bjobs=f"echo {told}") == status
    scheduler("cluster-generic/cancel", "12", bkill="")
    assert scheduler.heard("bkill") == "12"


def test_kubernetes(scheduler, tmp_path: Path) -> None:
    name = "job.batch/meta-rewarding-x"
    assert scheduler("kubernetes/submit", *SUBMITTED, kubectl=f"echo {name}") == name
    called, _, manifest = scheduler.heard("kubectl").partition("\n")
    assert called == "create --output name --filename -"
    job = yaml.safe_load(manifest)["spec"]
    (container,) = job["template"]["spec"]["containers"]
    assert job["activeDeadlineSeconds"] == 7200
    assert (container["image"], container["workingDir"]) == ("image:1", str(tmp_path))
    assert container["command"] == ["/bin/sh", "job.sh"]
    assert container["resources"]["limits"] == {"memory": "96000M", "nvidia.com/gpu": "2"}
    assert {"name": "data", "mountPath": "/data"} in container["volumeMounts"]
    for told, status in {"job::": "running", "job:1:": "success", "job::1": "failed", "": "failed"}.items():
        assert scheduler("kubernetes/status", name, kubectl=f"echo {told}") == status
    assert scheduler("kubernetes/status", name, kubectl="exit 1") == "running"
    scheduler("kubernetes/cancel", name, kubectl="")
    assert scheduler.heard("kubectl") == f"delete --ignore-not-found --wait=false {name}"
