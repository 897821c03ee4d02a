"""`manifest.json`: says that a model directory is complete, and names its content by digest."""

import json
import os
from pathlib import Path

from stages.contracts.files import atomic, file_digest
from stages.contracts.ids import digest


def write_manifest(directory: Path) -> None:
    """List a complete model directory's files and their digests; the digest over them is the model's identity."""
    paths = sorted(p for p in directory.iterdir() if p.is_file() and p.name != "manifest.json" and p.name[0] != ".")
    files = {path.name: file_digest(path) for path in paths}
    with atomic(directory / "manifest.json") as partial:
        partial.write_text(json.dumps({"digest": digest(files), "files": files}, indent=1) + "\n", encoding="utf-8")


def model_digest(model: Path) -> str:
    """Digest of a model's weights, tokenizer and chat template: of their content, not of their path."""
    manifest = model / "manifest.json"
    if manifest.exists():
        return str(json.loads(manifest.read_text(encoding="utf-8"))["digest"])
    patterns = ("*.safetensors", "tokenizer*", "special_tokens_map.json", "*.jinja", "config.json")
    names = sorted(path for pattern in patterns for path in model.glob(pattern))
    return digest([(path.name, file_digest(path)) for path in names])


def move_model(source: Path, target: Path) -> None:
    """Move a complete model directory's files to `target`, in place of the model there; the manifest comes last."""
    target.mkdir(parents=True, exist_ok=True)
    for old in [*target.glob("manifest.json"), *target.glob("*.safetensors*")]:
        old.unlink()
    for path in sorted(source.iterdir(), key=lambda path: path.name == "manifest.json"):
        os.replace(path, target / path.name)
    source.rmdir()


def template_fingerprint(model: Path) -> str:
    """Digest of the files that decide how a model's chat template renders, by content."""
    names = ("chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json")
    return digest([(name, file_digest(model / name)) for name in names if (model / name).is_file()])


def fingerprint(model: Path, sample: int = 1 << 16) -> str:
    """Cheap digest of a model's files: name, size, first and last bytes of each. Changes when a model is retrained,
    not when its files are touched or copied; takes milliseconds whatever the model's size."""
    parts = []
    for path in sorted(p for p in model.glob("*") if p.is_file() and p.name != "manifest.json"):
        with open(path, "rb") as handle:
            head = handle.read(sample)
            size = handle.seek(0, os.SEEK_END)
            handle.seek(max(0, size - sample))
            parts.append([path.name, size, head.hex(), handle.read().hex()])
    return digest(parts)
