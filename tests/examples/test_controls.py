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


def checked(folder: Path, shares: list[list[bool]]) -> tuple[Path, Path]:
    """Candidates of one prompt, and each one's checks with their outcomes."""
    prompts = write_prompts(folder / "prompts.parquet", [turns("Say hello")])
    (prompt,) = read(prompts, PROMPTS)["prompt_id"]
    candidates = [candidate_row(prompt, sample, f"hello {sample}", "stop") for sample in range(len(shares))]
    write(frame(CANDIDATES, candidates), folder / "candidates.parquet", CANDIDATES, {})
    rows = [
        {"prompt_id": prompt, "candidate_id": row["candidate_id"], "check": check, "instruction": "a", "passed": passed}
        for row, outcomes in zip(candidates, shares, strict=True)
        for check, passed in enumerate(outcomes)
    ]
    write(frame(VERIFICATIONS, rows), folder / "verifications.parquet", VERIFICATIONS, {})
    return prompts, folder / "candidates.parquet"


def test_shuffled_scores_are_the_checks_scores_of_the_same_prompt(tmp_path: Path) -> None:
    prompts, candidates = checked(tmp_path, [[True, True], [True, False], [False, False], [True, False]])
    files = {"votes": tmp_path / "votes.parquet", "scores": tmp_path / "scores.parquet"}
    dealt = []
    for seed in range(8):
        args = {"arm": "shuffled", "seed": seed, "prompts": prompts, "candidates": [candidates], **files}
        main(Args.model_validate(args | {"verifications": [tmp_path / "verifications.parquet"]}))
        dealt.append(read(files["scores"], SCORES).sort("candidate_id")["score"].to_list())
    assert all(sorted(scores) == [0.0, 2.5, 2.5, 5.0] for scores in dealt)
    assert len({tuple(scores) for scores in dealt}) > 2
    with pytest.raises(StageError, match="needs --verifications of all candidates"):
        main(Args.model_validate({"arm": "shuffled", "prompts": prompts, "candidates": [candidates], **files}))


def test_the_truth_is_the_oracles(tmp_path: Path) -> None:
    oracle = tmp_path / "oracle.py"
    oracle.write_text("def quality(messages, response):\n    return float(len(response))\n")
    found = scored(tmp_path, "oracle", oracle=oracle)
    assert sorted(found.values()) == sorted(float(len(text)) for text in TEXTS)
    with pytest.raises(StageError, match="the arm `oracle` needs --oracle"):
        scored(tmp_path, "oracle")
