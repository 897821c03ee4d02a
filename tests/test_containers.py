"""What containers install is what the package asks for."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def requirements(name: str) -> list[str]:
    lines = (ROOT / "containers" / name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_what_generates_asks_for_the_versions_of_the_package_and_the_oldest_are_those() -> None:
    package = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    wanted, oldest = requirements("generate.txt"), requirements("generate-oldest.txt")
    assert set(wanted) <= set(package)
    lowest = [re.split(">=|==", line) for line in (*wanted, *oldest)]
    bounds = {name: version for name, version in lowest[: len(wanted)]}
    for name, version in lowest[len(wanted) :]:
        assert f"{version}.".startswith(f"{bounds[name]}."), name


def test_images_are_pinned() -> None:
    for path in (ROOT / "containers").glob("Containerfile.*"):
        assert re.search(r"^FROM \S+:\d[\w.-]+$", path.read_text(encoding="utf-8"), re.MULTILINE), path
