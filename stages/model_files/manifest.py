"""`manifest.json`: says that a model directory is complete, and names its content by digest."""

import json
import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stages.contracts.errors import StageError
from stages.contracts.files import atomic, file_digest, load_json
from stages.contracts.ids import digest

READERS = 8
"""Files that are read side by side: a disk, or a network, gives more to several."""


def write_manifest(directory: Path) -> None:
    """List a complete model directory's files and their digests; the digest over them is the model's identity."""
    paths = sorted(p for p in directory.iterdir() if p.is_file() and p.name != "manifest.json" and p.name[0] != ".")
    files = {path.name: file_digest(path) for path in paths}
    with atomic(directory / "manifest.json") as partial:
        partial.write_text(json.dumps({"digest": digest(files), "files": files}, indent=1) + "\n", encoding="utf-8")


def model_digest(model: Path) -> str:
    """Digest of a model's weights, tokenizer and chat template: of their content, not of their path.

    All of it is read. Raises StageError for a model that is not what its manifest says, naming the file.
    """
    if (model / "manifest.json").exists():
        return _verified(model)
    patterns = ("*.safetensors", "tokenizer*", "special_tokens_map.json", "*.jinja", "config.json")
    names = sorted(path for pattern in patterns for path in model.glob(pattern))
    return digest(list(zip([path.name for path in names], _digests(names), strict=True)))


def _digests(paths: list[Path]) -> list[str]:
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(file_digest, paths))


def _verified(model: Path) -> str:
    """The digest in a manifest, once the files are those that it lists."""
    manifest = model / "manifest.json"
    anew = f"`rm {shlex.quote(str(manifest))}` and run snakemake again, which makes the model anew"
    try:
        said = load_json(manifest, "")
    except StageError as error:
        raise StageError(f"{error}; type {anew}") from error
    listed = said.get("files")
    if not isinstance(listed, dict) or said.get("digest") != digest(listed):
        raise StageError(f"{manifest}: damaged, its digest is not that of its list; type {anew}")
    paths = [model / name for name in listed]
    if lost := next((path for path in paths if not path.is_file()), None):
        raise StageError(f"{lost}: no such file, though {manifest.name} lists it; {_restored(lost)}{anew}")
    for path, found in zip(paths, _digests(paths), strict=True):
        if found != listed[path.name]:
            what = f"damaged, its content is not that of which {manifest.name} has the digest"
            raise StageError(f"{path}: {what}; {_restored(path)}{anew}")
    return str(said["digest"])


def _restored(path: Path) -> str:
    """What to do first about a file that the run only links to: it cannot be made anew."""
    return f"restore {path.readlink()}, or, if it is meant to be another one, type " if path.is_symlink() else "type "


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
