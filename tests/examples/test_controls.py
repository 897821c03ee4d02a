"""The control arms: scores from chance, and from the truth."""

from pathlib import Path

import pytest

from examples.controls import Args, main
from stages.contracts.artifacts import read, write
from stages.contracts.errors import StageError
from stages.contracts.schema import frame
from stages.tables import CANDIDATES, PROMPTS, SCORES, VERIFICATIONS, VOTES
from tests.support.records import candidate_row, turns, write_candidates, write_prompts

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


def checked(folder: Path, outcomes: list[list[list[bool]]]) -> tuple[Path, Path]:
    """Prompts, each with candidates, each with checks of these outcomes."""
    prompts = write_prompts(
        folder / "prompts.parquet", [turns(f"Say hello {number}") for number in range(len(outcomes))]
    )
    candidates, rows = [], []
    for prompt, of_candidates in zip(read(prompts, PROMPTS)["prompt_id"], outcomes, strict=True):
        for sample, passed in enumerate(of_candidates):
            candidates.append(candidate_row(prompt, sample, f"hello {sample}", "stop"))
            own = {"prompt_id": prompt, "candidate_id": candidates[-1]["candidate_id"], "instruction": "a"}
            rows += [{**own, "check": check, "passed": each} for check, each in enumerate(passed)]
    write(frame(CANDIDATES, candidates), folder / "candidates.parquet", CANDIDATES, {})
    write(frame(VERIFICATIONS, rows), folder / "verifications.parquet", VERIFICATIONS, {})
    return prompts, folder / "candidates.parquet"


def test_shuffled_scores_are_the_checks_scores_of_the_same_prompt(tmp_path: Path) -> None:
    outcomes = [[[True, True], [True, False], [False, False], [True, False]], [[True], [False], [False]]]
    prompts, candidates = checked(tmp_path, outcomes)
    files = {"votes": tmp_path / "votes.parquet", "scores": tmp_path / "scores.parquet"}
    first, second = read(prompts, PROMPTS)["prompt_id"]
    dealt = []
    for seed in range(8):
        args = {"arm": "shuffled", "seed": seed, "prompts": prompts, "candidates": [candidates], **files}
        main(Args.model_validate(args | {"verifications": [tmp_path / "verifications.parquet"]}))
        scores = read(files["scores"], SCORES).sort("candidate_id")
        dealt.append(tuple(scores["score"]))
        assert sorted(scores.filter(prompt_id=first)["score"]) == [0.0, 2.5, 2.5, 5.0]
        assert sorted(scores.filter(prompt_id=second)["score"]) == [0.0, 0.0, 5.0]
    assert len(set(dealt)) > 2
    with pytest.raises(StageError, match="needs --verifications of all candidates"):
        main(Args.model_validate({"arm": "shuffled", "prompts": prompts, "candidates": [candidates], **files}))


def test_the_truth_is_the_oracles(tmp_path: Path) -> None:
    oracle = tmp_path / "oracle.py"
    oracle.write_text("def quality(messages, response):\n    return float(len(response))\n")
    found = scored(tmp_path, "oracle", oracle=oracle)
    assert sorted(found.values()) == sorted(float(len(text)) for text in TEXTS)
    with pytest.raises(StageError, match="the arm `oracle` needs --oracle"):
        scored(tmp_path, "oracle")
