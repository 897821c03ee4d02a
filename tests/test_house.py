"""The plan of the house: what every command looks like, and how large rooms may get. Imports: `lint-imports`."""

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from importlib import import_module, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from stages.contracts.schema import Table
from stages.tables import ALL

ROOT = Path(__file__).parents[1]
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("*.py") if path.stem != "__init__")
MODULES = sorted((ROOT / "stages").rglob("*.py"))
BEFORE_A_RUN = ("convert", "plan")
AFTER_A_RUN = ("export", "inspect")
"""Commands that people run, before a run and from its beginning on; all others are run by a rule."""
RANKS = ("reference_logprobs", "train")
"""Commands that compute on ranks; all others start without any of these."""
HEAVY = ("torch", "transformers", "megatron", "nemo", "lightning", "tensorrt_llm")
RULES = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "workflow/rules").glob("*.smk"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_command_says_what_it_reads_does_and_writes_and_ends_in_main(stage: str) -> None:
    tree = ast.parse((ROOT / f"stages/{stage}.py").read_text(encoding="utf-8"))
    words = [line.split(" ")[0] for line in (ast.get_docstring(tree) or "").splitlines()]
    assert [word for word in words if word in ("Reads:", "Does:", "Writes:")] == ["Reads:", "Does:", "Writes:"]
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assert "Args" in defined
    assert defined[-1] == "main"
    assert isinstance(tree.body[-1], ast.If), "ends in `if __name__ == ...`"


@pytest.mark.parametrize("stage", sorted({*STAGES} - {*BEFORE_A_RUN, *AFTER_A_RUN}))
def test_a_command_has_a_rule_of_its_name(stage: str) -> None:
    assert f"rule {stage}:\n" in RULES
    assert f"stages.{stage} " in RULES or f'"stages.{stage}"' in RULES


def test_wings_are_not_named_like_commands() -> None:
    wings = {path.parent.name for path in MODULES if path.parent.parent.name == "stages"}
    assert not wings & set(STAGES)
    assert {path.name for path in (ROOT / "stages").iterdir() if path.suffix != ".py"} - {"__pycache__"} == wings


def test_rooms_and_functions_are_small() -> None:
    lengths = {}
    for path in MODULES:
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") < 300, f"{path} is a room for more than one thing"
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                lengths[f"{path}:{node.name}"] = node.end_lineno - node.lineno + 1  # type: ignore[operator]
    assert max(lengths.values()) <= 50, max(lengths, key=lengths.__getitem__)
    assert statistics.median(lengths.values()) <= 8


def test_no_group_has_a_possessive_quantifier() -> None:
    """Before Python 3.11.5, which Debian 12 has, such a group matches what it should not (CPython #106052)."""
    possessive = re.compile(r"\)(?:[*+?]|\{\{?[\d,]+\}\}?)\+")
    for path in MODULES:
        found = [line for line in path.read_text(encoding="utf-8").splitlines() if possessive.search(line)]
        assert not found, f"{path}: {found[0]}; write an atomic group, (?>...)"
    assert possessive.search(r"(?:a|b)*+")
    assert possessive.search(r"(a){1,3}+")


def test_data_stages_start_without_any_framework() -> None:
    names = [f"stages.{stage}" for stage in STAGES if stage not in (*RANKS, "convert")]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {names}]"
    code += f"; import stages.planning.checks; print(sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pinned_packages_install_on_the_oldest_python_that_is_promised() -> None:
    """Debian 12 has 3.11.2, and pip says of a pin that wants 3.11.5 only that requirements conflict."""
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    pins = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    wanted = {name: metadata.metadata(name)["Requires-Python"] or "" for name in pins}
    version = oldest.removeprefix(">=") + ".0"
    assert {name: one for name, one in wanted.items() if not SpecifierSet(one).contains(version)} == {}


def test_the_data_dictionary_has_every_table() -> None:
    rooms = [import_module(f"stages.tables.{path.stem}") for path in (ROOT / "stages/tables").glob("[a-z]*.py")]
    defined = {table.name for room in rooms for table in vars(room).values() if isinstance(table, Table)}
    assert defined == {table.name for table in ALL}
