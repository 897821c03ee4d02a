"""Folders with names that a shell would read as something else."""

import re
import shlex
import shutil

import pytest

from tests.support.workflow_run import NO_EFT, ROOT, Run, merge

ODD = 'it\'s a "folder" $(touch stray) `touch stray`; touch stray & [x]*'
BARE = re.compile(r"\{(?:input|output|log)(?:\.\w+)?\}")
FOLDER = re.compile(r"^ +(\w+)=(?:folder_of|lambda \w+, \w+: os\.path\.dirname)\(", re.MULTILINE)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in a folder of such a name, and of a base model in another one."""
    folder = tmp_path_factory.mktemp("names") / ODD
    model = shutil.copytree(ROOT / "examples/tinyworld/base", folder / "-my model")
    return Run(folder, merge(NO_EFT, {"run": {"iterations": 2, "model": str(model)}}))


@pytest.mark.slow
def test_every_command_names_the_files_of_an_odd_folder_whole(odd: Run) -> None:
    """As a shell would split them; whatever of a path came loose would be a word of its own."""
    printed = odd.snakemake("--dry-run", "--printshellcmds", "--quiet", "host", "reason", "progress")
    commands = [line for line in printed.splitlines() if " -m stages." in line]
    assert {re.findall(r"-m stages\.(\w+) ", line)[-1] for line in commands} >= {"ingest", "judge", "pairs", "train"}
    for line in commands:
        named = [word for word in shlex.split(line) if "stray" in word or ".parquet" in word or "-my" in word]
        assert named
        assert [word for word in named if not word.startswith(f"{odd.folder}/")] == [], line


@pytest.mark.slow
def test_jobs_in_an_odd_folder_read_and_write_there(odd: Run) -> None:
    target = odd.path / "iter-1/prompts.parquet"
    odd.snakemake("--", str(target), f"{odd.path}/models/0/manifest.json")
    assert target.exists()
    assert (odd.path / "models/0/model.safetensors").exists()
    assert not list(ROOT.glob("stray*"))


def test_rules_quote_every_file_and_folder() -> None:
    rules = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    assert BARE.findall(rules) == []
    assert rules.count("{log:q}") == rules.count("    shell:") > 15
    named = 0
    for rule in re.split(r"^(?= *rule \w+:)", rules, flags=re.MULTILINE):
        for folder in FOLDER.findall(rule):
            assert f"{{params.{folder}:q}}" in rule
            assert f"{{params.{folder}}}" not in rule
            named += 1
    assert named > 15
