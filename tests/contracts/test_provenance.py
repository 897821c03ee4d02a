"""A stage's version changes with its code and that of the modules it uses, and with nothing else."""

import shutil

import pytest

from stages.contracts import provenance
from stages.model_files.manifest import model_digest


@pytest.fixture
def package(tmp_path, monkeypatch):
    copy = tmp_path / "stages"
    shutil.copytree(provenance.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    return copy


def version(stage):
    """As a new process sees it."""
    provenance._source.cache_clear()
    return provenance.stage_version(stage)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_comments_and_docstrings_do_not_count(package):
    before = version("score")
    path = package / "score.py"
    path.write_text(path.read_text().replace('"""Score:', '"""Scores:', 1) + "\n# a remark\n")
    assert version("score") == before


def test_code_of_the_stage_and_of_imported_modules_counts(package):
    before = {stage: version(stage) for stage in ("score", "select", "judge")}
    edit(package / "algorithms" / "aggregation.py", ".mean()", ".median()")
    after = {stage: version(stage) for stage in before}
    assert after["score"] != before["score"]
    assert after["select"] == before["select"]
    assert after["judge"] == before["judge"]
    edit(package / "contracts/ids.py", "sha256", "sha512")
    assert all(version(stage) != after[stage] for stage in before)


def test_settings_are_tracked_by_value_not_by_code(package):
    before = version("score")
    edit(
        package / "config/scoring.py",
        "class ScoreSection(Section):",
        "UNRELATED = 1\n\n\nclass ScoreSection(Section):",
    )
    assert version("score") == before


def test_a_models_digest_is_of_its_content(tmp_path):
    for name, weight in (("a", b"w"), ("b", b"w"), ("c", b"v")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(weight)
    digests = {name: model_digest(tmp_path / name) for name in "abc"}
    assert digests["a"] == digests["b"] != digests["c"]


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "t.jinja"])
def test_a_models_digest_is_of_all_that_makes_tokens_of_a_conversation(name, tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"w")
    (tmp_path / name).write_text("one")
    before = model_digest(tmp_path)
    (tmp_path / name).write_text("two")
    assert model_digest(tmp_path) != before
