"""The safetensors of a model directory: reading slices of tensors, and publishing a new set of files."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from stages.contracts.errors import StageError
from stages.contracts.files import atomic, load_json

INDEX = "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")


class TensorFiles:
    """Where each tensor of a model directory is. Reads slices; keeps neither data nor open files.

    A file that stayed open would keep its pages in the process's memory, until it had grown to the model's size.
    """

    def __init__(self, directory: Path):
        """Raises StageError naming a file that is missing or not readable, or a tensor that occurs twice."""
        self.directory = directory
        self.files: dict[str, Path] = {}
        for path in _paths(directory):
            try:
                with safe_open(path, "pt") as handle:
                    names = list(handle.keys())
            except (SafetensorError, OSError) as error:
                raise StageError(f"{path}: not a readable safetensors file: {error}") from error
            if twice := next((name for name in names if name in self.files), None):
                raise StageError(f"{path}: tensor {twice} is also in {self.files[twice].name}; keep one of them")
            self.files.update(dict.fromkeys(names, path))

    def require(self, expected: set[str], ignored: Sequence[str]) -> None:
        """StageError naming the first tensor that is missing, or that is neither expected nor ends as `ignored` do."""
        if missing := sorted(expected - self.files.keys()):
            raise StageError(f"{self.directory}: tensor {missing[0]} is missing from the safetensors files")
        for name in sorted(self.files.keys() - expected):
            if not name.endswith(tuple(ignored)):
                raise StageError(
                    f"{self.files[name]}: tensor {name} has no place in the model that config.json describes: "
                    "configuration and weights do not belong together, or the model has a part that is not supported"
                )

    def read(self, name: str, shape: Sequence[int], dimension: int | None, start: int, stop: int) -> torch.Tensor:
        """Indices start..stop of a tensor along a dimension (None: all of it), in the type that the file holds.

        Raises StageError naming file and tensor if its shape is not `shape`, its type not a floating-point one, or a
        value of the slice not finite.
        """
        path = self.files[name]
        with safe_open(path, "pt") as handle:
            stored = handle.get_slice(name)
            if list(stored.get_shape()) != list(shape):
                raise StageError(
                    f"{path}: tensor {name} has shape {tuple(stored.get_shape())}, but config.json asks for "
                    f"{tuple(shape)}"
                )
            if stored.get_dtype() not in _FLOATS:
                raise StageError(
                    f"{path}: tensor {name} has type {stored.get_dtype()}; only {', '.join(_FLOATS)} are read"
                )
            part: torch.Tensor = stored[:, start:stop] if dimension == 1 else stored[start:stop]
            # The extremes are NaN if any value is; finding them needs no copy.
            if not all(torch.isfinite(extreme) for extreme in part.aminmax()):
                raise StageError(f"{path}: tensor {name} holds NaN or infinite values")
            return part


def publish(partials: Sequence[Path], names: Sequence[Sequence[str]], total_size: int, directory: Path) -> None:
    """Give complete partial files the names of Hugging Face checkpoints, in place of those that `directory` holds.

    `names` are the tensors in each, `total_size` the bytes of all. `manifest.json` goes first: without it the
    directory does not count as a model.
    """
    for old in [*directory.glob("manifest.json"), *directory.glob("*.safetensors"), *directory.glob(INDEX)]:
        old.unlink()
    count = len(partials)
    files = [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    if count == 1:
        files = ["model.safetensors"]
    for partial, file in zip(partials, files, strict=True):
        os.replace(partial, directory / file)
    if count > 1:
        weight_map = {name: file for part, file in zip(names, files, strict=True) for name in part}
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        with atomic(directory / INDEX) as partial:
            partial.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _paths(directory: Path) -> list[Path]:
    """The files of a model as Transformers finds them: the single file, or those that the index names."""
    single, index = directory / "model.safetensors", directory / INDEX
    if single.exists():
        return [single]
    if not index.exists():
        raise StageError(
            f"{directory}: neither {single.name} nor {INDEX}; only safetensors are read, convert other weights first"
        )
    weight_map = load_json(index, "").get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise StageError(f"{index}: no weight_map that names the model's files")
    paths = [directory / name for name in sorted(set(weight_map.values()))]
    for path in paths:
        if path.parent != directory or not path.exists():
            raise StageError(f"{index}: names {path.name}, which is not there; complete the download")
    return paths
