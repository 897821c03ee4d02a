"""Model 0 is refused when it is incomplete, with one sentence that names what is missing."""

import json
import shutil

import pytest

from stages.base_model import Args, main
from stages.contracts.errors import StageError


@pytest.fixture
def model(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


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
