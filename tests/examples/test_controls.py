"""The control arms: scores from chance, and from the truth."""

from pathlib import Path

import pytest

from examples.controls import Args, main
from stages.contracts.artifacts import read
from stages.contracts.errors import StageError
from stages.tables import SCORES, VOTES
from tests.support.records import turns, write_candidates, write_prompts

TEXTS = ["short", "a longer answer", "the longest answer of all"]


def scored(folder: Path, arm: str, **more: object) -> dict[str, float]:
    prompts = write_prompts(folder / "prompts.parquet", [turns(f"Say hello {number}") for number in range(3)])
    candidates = write_candidates(prompts, TEXTS, ["stop"] * 3)
    paths = {"votes": folder / "votes.parquet", "scores": folder / "scores.parquet"}
    main(Args.model_validate({"arm": arm, "prompts": prompts, "candidates": [candidates], **paths, **more}))
    votes = read(paths["votes"], VOTES)
    assert set(votes["judge"]) == {arm}
    scores = read(paths["scores"], SCORES)
    assert dict(votes.select("candidate_id", "score").rows()) == dict(scores.select("candidate_id", "score").rows())
    return dict(scores.select("candidate_id", "score").rows())


def test_chance_has_a_seed(tmp_path: Path) -> None:
    first = scored(tmp_path, "random", seed=1)
    assert first == scored(tmp_path, "random", seed=1)
    assert any(scored(tmp_path, "random", seed=seed) != first for seed in range(2, 6))
    assert set(first.values()) <= {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}


def test_the_truth_is_the_oracles(tmp_path: Path) -> None:
    oracle = tmp_path / "oracle.py"
    oracle.write_text("def quality(messages, response):\n    return float(len(response))\n")
    found = scored(tmp_path, "oracle", oracle=oracle)
    assert sorted(found.values()) == sorted(float(len(text)) for text in TEXTS)
    with pytest.raises(StageError, match="the arm `oracle` needs --oracle"):
        scored(tmp_path, "oracle")
