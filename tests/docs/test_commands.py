"""Every command and every setting that a page shows is one that there is."""

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml
from snakemake.cli import parse_args

from stages.config.whole import load
from tests.docs.pages import ROOT, Command, commands, fenced
from tests.support import synthetic_run
from tests.support.workflow_run import merge

COMMANDS = commands()
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
RULES = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "workflow").rglob("*.smk"))
OWN = {"config/mine.yaml": "config/config.yaml", "prompts/mine.jinja": "prompts/judge.jinja"}
"""Files that a reader is to write, and ours that take their place."""


def of(program: str) -> list[Command]:
    return [one for one in COMMANDS if one.words[0] == program]


def named(command: Command) -> str:
    return f"{command.page}: {' '.join(command.words)}"


@cache
def helped(*words: str) -> str:
    """The help of a program of ours."""
    done = subprocess.run(
        [sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
    )  # fmt: skip
    return done.stdout


def test_pages_have_commands_of_each_program() -> None:
    counts = {program: len(of(program)) for program in ("make", "snakemake", "python", "pip", "pytest")}
    assert min(counts.values()) > 0, counts
    assert ("make", "smollm2", "QUICK=1") in [one.words for one in COMMANDS]
    assert len(COMMANDS) > 40


@pytest.mark.parametrize("command", of("make"), ids=named)
def test_make_has_the_target(command: Command) -> None:
    targets = [word for word in command.words[1:] if "=" not in word]
    variables = [word.partition("=")[0] for word in command.words[1:] if "=" in word]
    assert all(re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) for target in targets)
    assert all(f"$({name})" in MAKEFILE or f"$(if $({name})" in MAKEFILE for name in variables)


@pytest.mark.parametrize("command", of("python"), ids=named)
def test_a_program_has_the_flags(command: Command) -> None:
    module, *rest = command.words[2:] if command.words[1] == "-m" else command.words[1:]
    if module.startswith("stages."):
        page = helped("-m", module)
        for word in rest:
            if re.search(rf"\{{[\w,]*\b{re.escape(word)}\b[\w,]*\}}", page):
                page += helped("-m", module, word)
    elif module in ("venv", "pip"):
        return
    else:  # their help would have to import TRL first
        page = (ROOT / module.removesuffix(".py").replace(".", "/")).with_suffix(".py").read_text(encoding="utf-8")
    for word in rest:
        if word.startswith("--"):
            assert re.search(rf"(?<!\w){re.escape(word.partition('=')[0])}\b", page)


@pytest.mark.parametrize("command", of("snakemake"), ids=named)
def test_snakemake_takes_the_line_and_the_workflow_its_settings(command: Command) -> None:
    words = [OWN.get(word, word) for word in command.words[1:] if word != "..."]
    _, args = parse_args(words)
    for profile in filter(None, [args.workflow_profile]):
        assert (ROOT / f"workflow/profiles/{profile}/profile.yaml").exists()
    files = [ROOT / path for path in args.configfile or []]
    if all(path.exists() for path in files):
        settings = yaml.safe_load((files or [ROOT / "config/config.yaml"])[0].read_text(encoding="utf-8"))
        for name, value in (item.split("=", 1) for item in args.config or []):
            settings = merge(settings, {name: yaml.safe_load(value)})
        load(settings)
    for rule in args.forcerun or []:
        assert f"rule {rule}:\n" in RULES
    if any(word.startswith("results/") for word in words):
        subprocess.run(
            [sys.executable, "-m", "snakemake", "--dry-run", "--quiet", "all", *words],
            cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip


@pytest.mark.parametrize("command", of("pip"), ids=named)
def test_an_extra_that_is_installed_is_one_of_ours(command: Command) -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (wanted,) = [word for word in command.words if word.startswith(".[")]
    for extra in wanted.strip(".[]").split(","):
        assert re.search(rf"^{extra} = \[", text, re.MULTILINE)


@pytest.mark.parametrize("command", of("pytest"), ids=named)
def test_tests_that_pages_name_are_there(command: Command) -> None:
    for word in command.words[1:]:
        if word.startswith("tests/"):
            assert (ROOT / word.partition("::")[0]).exists()


@pytest.mark.parametrize(("page", "block"), fenced("yaml"), ids=lambda text: text.strip()[:40])
def test_settings_are_those_of_the_configuration(page: str, block: str) -> None:
    shown = yaml.safe_load(block)
    needed = {"run": {"model": "models/mine"}, "ingest": {"sources": ["data/mine.jsonl"], "validation_fraction": 0.1}}
    assert json.loads(load(merge(needed, shown)).model_dump_json()).keys() >= shown.keys(), page


def test_files_that_are_copied_are_there() -> None:
    assert of("cp")
    for command in of("cp"):
        assert Path(ROOT / command.words[1]).exists()


def test_readme_opens_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic_run.build(tmp_path / "results/tinyworld")
    monkeypatch.chdir(tmp_path)
    blocks = [block for page, block in fenced("python") if page == "README.md"]
    assert len(blocks) == 2
    for block in blocks:
        exec(block, {})
