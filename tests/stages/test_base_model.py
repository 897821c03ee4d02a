"""Model 0 is refused when it is incomplete, with one sentence that names what is missing."""

import json
import os
import shutil
from pathlib import Path

import pytest

from stages.base_model import Args, main
from stages.contracts.errors import StageError
from stages.model_files.manifest import model_digest, write_manifest


@pytest.fixture
def model(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def shorten(model):
    path = model / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1)


def configure(model, **values):
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda m: shutil.rmtree(m), "no such directory"),
        (lambda m: (m / "config.json").unlink(), r"config\.json: no such file"),
        (lambda m: (m / "config.json").write_text("{"), r"config\.json: not valid JSON"),
        (lambda m: (m / "model.safetensors").unlink(), r"no \*\.safetensors file"),
        (shorten, r"model\.safetensors: \d+ bytes, but its header tells of \d+; copy or download it again"),
        (lambda m: (m / "model.safetensors").write_bytes(b"PK"), r"model\.safetensors: not a safetensors file"),
        (lambda m: (m / "tokenizer.json").unlink(), r"tokenizer\.json: no such file"),
        (lambda m: (m / "chat_template.jinja").unlink(), "no chat template"),
        (lambda m: configure(m, vocab_size=100), "tokenizer and model do not belong together"),
        (lambda m: configure(m, architectures=["MambaForCausalLM"]), "MambaForCausalLM is not supported"),
    ],
)
def test_what_is_missing_is_named(damage, message, model, tmp_path):
    damage(model)
    output = tmp_path / "run/manifest.json"
    with pytest.raises(StageError, match=message):
        main(Args(model=model, output=output))
    assert not output.exists()


def test_a_manifest_names_the_content(model, tmp_path):
    outputs = [tmp_path / name / "manifest.json" for name in ("a", "b")]
    for output in outputs:
        main(Args(model=model, output=output))
    first, second = (json.loads(output.read_text()) for output in outputs)
    assert first == second
    assert set(first["files"]) == {path.name for path in model.iterdir()}


def test_another_model_leaves_no_link_of_the_first(model, tmp_path):
    output = tmp_path / "run/manifest.json"
    (model / "extra.model").write_text("x")
    main(Args(model=model, output=output))
    (model / "extra.model").unlink()
    main(Args(model=model, output=output))
    assert {path.name for path in output.parent.iterdir()} == {path.name for path in model.iterdir()} | {
        "manifest.json"
    }


def test_a_model_that_is_not_what_its_own_manifest_says_is_refused(model, tmp_path):
    write_manifest(model)
    main(Args(model=model, output=tmp_path / "run/manifest.json"))
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(StageError, match=r"model\.safetensors: damaged, its content is not that of which"):
        main(Args(model=model, output=tmp_path / "other/manifest.json"))


def test_links_hold_when_the_folder_of_model_and_run_is_moved(model, tmp_path, monkeypatch):
    """And those to a model elsewhere hold when the run alone is moved."""
    project = tmp_path / "project"
    shutil.copytree(model, project / "mine")
    monkeypatch.chdir(project)
    main(Args(model=Path("mine"), output=Path("results/run/manifest.json")))
    main(Args(model=model, output=Path("results/other/manifest.json")))
    before = model_digest(project / "results/run")
    project.rename(tmp_path / "moved")
    for name in ("run", "other"):
        assert model_digest(tmp_path / "moved/results" / name) == before
