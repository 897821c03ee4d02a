"""A GGUF file becomes a model directory with the same weights, or is refused with a reason."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stages import convert
from stages.contracts.errors import StageError
from stages.model_files.manifest import model_digest
from stages.prompting.chat import ChatTokenizer
from tests.support.llama_server import write_gguf
from tests.support.records import turns


@pytest.fixture(scope="module")
def gguf(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(tiny_model_dir, path)
    return path


def test_weights_and_tokens_are_those_of_the_model(gguf: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Also undone is llama.cpp's own order of the rows that are rotated."""
    made = tmp_path / "models" / "tiny"
    convert.main(convert.Args(gguf=gguf, output=made, tokenizer=tiny_model_dir))
    before, after = (load_file(folder / "model.safetensors") for folder in (tiny_model_dir, made))
    assert {name: tensor.dtype for name, tensor in after.items()} == dict.fromkeys(before, torch.float32)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor.float()), name
    asked = turns("Hello, <|end|> world!")
    assert ChatTokenizer(made).encode(asked) == ChatTokenizer(tiny_model_dir).encode(asked)
    assert ChatTokenizer(made).stop_ids >= {ChatTokenizer(tiny_model_dir).end_id}
    assert {path.stat().st_mode & 0o777 for path in made.iterdir()} == {(tmp_path / "models").stat().st_mode & 0o666}
    assert model_digest(made)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]


def test_what_could_not_be_used_is_refused_and_leaves_nothing(
    gguf: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, text = tmp_path / "broken.gguf", tmp_path / "text.gguf"
    broken.write_bytes(gguf.read_bytes()[:3000])
    text.write_text("no weights")
    out = tmp_path / "out"
    with pytest.raises(StageError, match=r"text\.gguf: not a GGUF file"):
        convert.main(convert.Args(gguf=text, output=out))
    with pytest.raises(StageError, match=r"broken\.gguf: cannot be read: "):
        convert.main(convert.Args(gguf=broken, output=out))
    with pytest.raises(StageError, match=r"broken\.gguf: cannot be read: "):
        convert.main(convert.Args(gguf=broken, output=out, tokenizer=tiny_model_dir))
    with pytest.raises(StageError, match="chat template"):
        convert.main(convert.Args(gguf=gguf, output=out))
    monkeypatch.setattr(convert, "SPLITS", {"smollm": None})
    with pytest.raises(StageError, match="splits text as `gpt-2`, known are smollm; give the original model's"):
        convert.main(convert.Args(gguf=gguf, output=out))
    assert not out.exists()
    with pytest.raises(StageError, match="exists already; nothing is overwritten"):
        convert.main(convert.Args(gguf=gguf, output=tmp_path))
