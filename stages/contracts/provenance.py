"""Where an artifact comes from: the facts that every file carries, and the version of the code that made it."""

import ast
import hashlib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from stages import __version__
from stages.contracts.files import file_digest
from stages.contracts.ids import digest

PACKAGE = Path(__file__).parents[1]
"""Root of all modules that count: one level too low, and a stage's version would never change."""
_SETTINGS = "stages.config"
"""The package that only carries settings: their values are tracked by themselves."""


def describe(stage: str, settings: BaseModel, inputs: list[Path], **facts: Any) -> dict[str, Any]:
    """Provenance of an output: stage, code and settings digests, digests of the input files, and further facts
    such as the run seed, the iteration, the model's and the template's digest."""
    values = settings.model_dump(mode="json")
    return {
        "stage": stage,
        "version": __version__,
        "code": stage_version(stage),
        "settings": values,
        "settings_digest": digest(values),
        "inputs": {str(path): file_digest(path) for path in inputs},
        **facts,
    }


def stage_version(stage: str) -> str:
    """Digest of a stage's source and of every module of ours that it imports; comments and docstrings do not count."""
    return digest({name: _source(path).code for name, path in sorted(_imports(f"stages.{stage}").items())})


def _imports(module: str) -> dict[str, Path]:
    """The module and, transitively, our own modules that it imports anywhere in its source."""
    found: dict[str, Path] = {}
    queue = [module]
    while queue:
        name = queue.pop()
        path = _locate(name)
        settings = name == _SETTINGS or name.startswith(f"{_SETTINGS}.")
        if path is None or name in found or settings:
            continue
        found[name] = path
        queue += _source(path).imports
    return found


def _locate(module: str) -> Path | None:
    parts = module.split(".")
    if parts[0] != PACKAGE.name:
        return None
    base = PACKAGE.joinpath(*parts[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


class _Source(NamedTuple):
    imports: list[str]
    code: str


@cache
def _source(path: Path) -> _Source:
    """What a file may import, and the digest of its syntax; parsed once a process, which runs one version of it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imports += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        body: Any = getattr(node, "body", None)
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and body
        if documented and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body[0] = ast.Pass()
    return _Source(imports, hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16])
