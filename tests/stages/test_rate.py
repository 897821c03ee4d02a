"""The stage `rate`: what it writes and says, and that files and order of rows change nothing."""

import re
from itertools import permutations
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import rate
from stages.contracts.artifacts import read
from stages.contracts.errors import StageError
from stages.contracts.schema import frame
from stages.tables import BATTLES, RATINGS, VERDICTS, VOTES
from tests.support.judging import Row, completion, saved


def verdicts(winners: dict[tuple[str, int, int], str]) -> list[Row]:
    return [
        {"prompt_id": name.split("-")[0], "candidate_id": name, "vote_a": a, "vote_b": b, **completion(text)}
        for (name, a, b), text in winners.items()
    ]


def scored(candidates: dict[str, list[float | None]]) -> list[Row]:
    return [
        {"prompt_id": name.split("-")[0], "candidate_id": name, "vote": vote, "judge": "policy", "score": value,
         "finish_reason": "stop", "parse_status": "ok", "tokens": 1}
        for name, given in candidates.items()
        for vote, value in enumerate(given)
    ]  # fmt: skip


def run_rate(folder: Path, files: list[Path], **settings: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    paths = {"battles": folder / "battles.parquet", "ratings": folder / "ratings.parquet"}
    rate.main(rate.Args.model_validate({"verdicts": files, **paths, **settings}))
    return read(paths["battles"], BATTLES), read(paths["ratings"], RATINGS)


def test_rate_reports_how_often_the_higher_score_won(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    winners = {
        ("p-0", 0, 1): "Winner: Judgement A",  # 4 beats 2
        ("p-0", 1, 0): "Winner: [Judgement B]",  # 4 beats 2
        ("p-0", 0, 2): "Winner: A",  # equal scores
        ("p-0", 2, 0): "none",
        ("p-0", 1, 2): "**Winner:** Judgment A.",  # 2 beats 4
    }
    votes = saved(tmp_path, "votes", VOTES, scored({"p-0": [4, 2, 4], "q-0": [1]}))[0]
    battles, ratings = run_rate(tmp_path, saved(tmp_path, "v", VERDICTS, verdicts(winners), parts=2), votes=votes)
    assert battles["winner"].to_list() == ["a", "a", "b", "a", None]
    assert ratings["vote"].to_list() == [0, 1, 2]
    assert capsys.readouterr().err == (
        "rate: 4 of 5 verdicts parsed, 1 candidates rated, position bias: first slot wins 75.0%, "
        "order flips 0.0% of the pairs, the higher score wins 66.7%\n"
    )


def test_rate_without_votes_or_verdicts_says_less(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    battles, ratings = run_rate(tmp_path, [])
    assert (battles.height, ratings.height) == (0, 0)
    votes = saved(tmp_path, "votes", VOTES, scored({"p-0": [4, 4]}))[0]
    equal = verdicts({("p-0", 0, 1): "Winner: A"})
    run_rate(tmp_path, saved(tmp_path, "v", VERDICTS, equal), votes=votes)
    assert "higher score" not in capsys.readouterr().err


def test_a_compared_judgement_without_its_vote_is_named(tmp_path: Path) -> None:
    votes = saved(tmp_path, "votes", VOTES, scored({"p-0": [4]}))[0]
    files = saved(tmp_path, "v", VERDICTS, verdicts({("p-0", 0, 1): "Winner: A"}))
    with pytest.raises(StageError, match=re.escape(f"{votes}: ") + "vote 1 of candidate p-0 is missing"):
        run_rate(tmp_path, files, votes=votes)
    assert not (tmp_path / "battles.parquet").exists()


@given(st.lists(st.integers(0, 5), min_size=2, max_size=5), st.data())
def test_the_share_of_higher_scores_that_won_is_counted_over_unequal_decided_battles(
    given_scores: list[int], data: st.DataObject
) -> None:
    pairs = list(permutations(range(len(given_scores)), 2))
    winners = data.draw(st.lists(st.sampled_from(["a", "b", None]), min_size=len(pairs), max_size=len(pairs)))
    battles = [
        {"prompt_id": "p", "candidate_id": "p-0", "vote_a": a, "vote_b": b, "winner": winner, "parse_status": "ok"}
        for (a, b), winner in zip(pairs, winners, strict=True)
    ]
    won = [
        (given_scores[a] > given_scores[b]) == (winner == "a")
        for (a, b), winner in zip(pairs, winners, strict=True)
        if winner and given_scores[a] != given_scores[b]
    ]
    votes = frame(VOTES, scored({"p-0": list(given_scores)})).select("prompt_id", "candidate_id", "vote", "score")
    found = rate.higher_score_wins(frame(BATTLES, battles), votes)
    assert found == (pytest.approx(sum(won) / len(won)) if won else None)


def test_the_bytes_of_ratings_do_not_depend_on_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """D6: judgements of a response that lay in two windows were rated twice, each time in part."""
    # The names and digests of the input files are in the metadata of an output on purpose.
    monkeypatch.setattr(rate, "describe", lambda *_: {})
    rows = verdicts(
        {
            (f"{prompt:02x}-0", a, b): f"Winner: Judgement {'AB'[(prompt + a * 3 + b) % 2]}"
            for prompt in range(20)
            for a, b in permutations(range(4), 2)
        }
    )
    found = []
    for parts, reverse in ((1, False), (4, True)):
        folder = tmp_path / str(parts)
        run_rate(folder, saved(folder, "v", VERDICTS, rows[::-1] if reverse else rows, parts))
        found.append([(folder / f"{name}.parquet").read_bytes() for name in ("battles", "ratings")])
    assert found[0] == found[1]
