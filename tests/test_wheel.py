"""The package as users install it: a wheel of the tracked files. An editable install hides files that it forgets."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from stages.contracts.artifacts import read
from stages.tables import PROMPTS

ROOT = Path(__file__).parents[1]
HELP = """
import contextlib, io, runpy, sys
for command in sys.argv[1:]:
    sys.argv, printed = [command, "--help"], io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        runpy.run_module(command, run_name="__main__", alter_sys=True)
    print(printed.getvalue().split("\\n")[0].partition("[-h]")[0])
"""

pytestmark = pytest.mark.slow


def done(*command, **options):
    """What a program prints; it must end well."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, check=False, **options
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def tracked():
    """The files of the repository, by their names."""
    names = done("git", "ls-files", "-z", cwd=ROOT).split("\0")
    return [name for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tracked, tmp_path_factory):
    """Built from a copy, so that nothing that lies about is in it."""
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    done(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", output, source)
    return next(output.glob("*.whl"))


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A Python that has the wheel, and all else from this environment; `.pth` files there are not followed from here,
    and so the editable install is not seen."""
    folder = tmp_path_factory.mktemp("environment")
    done(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin/python"
    done(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    packages = done(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(packages, "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_holds_every_file_of_the_package(wheel, tracked):
    files = set(zipfile.ZipFile(wheel).namelist())
    expected = {name for name in tracked if name.startswith("stages/")}
    assert {f"stages/reporting/page.{kind}" for kind in ("html.jinja", "css", "js")} <= set(expected)
    assert expected - files == set()
    assert not [name for name in files if not name.startswith("stages/") and ".dist-info/" not in name]


def test_a_stage_runs_from_the_wheel(python, tmp_path):
    place = done(python, "-c", "import stages; print(stages.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(python.parents[1])
    (tmp_path / "chat.jsonl").write_text(json.dumps({"prompt": "Hello"}) + "\n")
    outputs = ["--prompts", "prompts.parquet", "--ledger", "ledger.parquet"]
    settings = ["--validation-fraction", "0", "--sources", "chat.jsonl"]
    done(python, "-m", "stages.ingest", *settings, *outputs, cwd=tmp_path)
    assert read(tmp_path / "prompts.parquet", PROMPTS)["messages"].to_list() == [[{"role": "user", "content": "Hello"}]]


def test_every_command_tells_its_flags(python, tracked, tmp_path):
    paths = [Path(name) for name in tracked]
    commands = [f"stages.{path.stem}" for path in paths if path.parent == Path("stages") and path.stem != "__init__"]
    assert len(commands) > 15
    usage = done(python, "-c", HELP, *commands, cwd=tmp_path).splitlines()
    assert usage == [f"usage: python -m {command} " for command in commands]
