"""A model's identity is its content, and a moved model leaves nothing of the old one."""

import shutil

from stages.model_files.manifest import fingerprint, move_model, write_manifest


def test_a_moved_model_leaves_nothing_of_the_old_one(tmp_path):
    for folder, names in (("old", ["model-1.safetensors", "manifest.json"]), ("new", ["model.safetensors"])):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text(folder)
    write_manifest(tmp_path / "new")
    move_model(tmp_path / "new", tmp_path / "old")
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == ["manifest.json", "model.safetensors"]
    assert not (tmp_path / "new").exists()


def test_a_fingerprint_follows_content_not_time(tiny_model_dir, tmp_path):
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    before = fingerprint(model)
    (model / "model.safetensors").touch()
    assert fingerprint(model) == before
    weights = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert fingerprint(model) != before
