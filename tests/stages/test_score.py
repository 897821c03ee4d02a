"""The stage `score`: what it writes, its gates, and that files and order of rows change nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import score
from stages.algorithms.votes_and_battles import parse_votes
from stages.contracts import artifacts
from stages.contracts.artifacts import read
from stages.contracts.errors import StageError
from stages.contracts.schema import frame
from stages.tables import JUDGE_PROMPTS, JUDGEMENTS, SCORES, VERIFICATIONS, VOTES
from tests.support.judging import Row, judgements, saved


def checks(passed: dict[str, list[bool]]) -> list[Row]:
    return [
        {"prompt_id": name.split("-")[0], "candidate_id": name, "check": check, "instruction": "i", "passed": value}
        for name, values in passed.items()
        for check, value in enumerate(values)
    ]


def run_score(folder: Path, texts: dict[str, list[str]] | None = None, **settings: Any) -> tuple[list[Row], list[Row]]:
    finish_reason = settings.pop("finish_reason", "stop")
    if texts is not None:
        settings["judgements"] = saved(folder, "judgements", JUDGEMENTS, judgements(texts, finish_reason))
    paths = {"votes": folder / "votes.parquet", "scores": folder / "scores.parquet"}
    score.main(score.Args.model_validate({**paths, **settings}))
    return read(paths["votes"], VOTES).rows(named=True), read(paths["scores"], SCORES).rows(named=True)


def values(rows: list[Row], *names: str) -> list[tuple[Any, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def test_score_writes_votes_and_scores_and_prints_what_the_votes_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"p-0": ["Score: 4", "So: Score: 3.5", "none"], "p-1": ["Score: 1", "Score: 9", "?"]}
    votes, scores = run_score(tmp_path, texts, min_votes=2)
    assert values(votes, "score", "span", "verdict", "parse_status") == [
        (4.0, [0, 8], "Score: 4", "ok"),
        (3.5, [0, 14], "So: Score: 3.5", "ok"),
        (None, None, None, "no_match"),
        (1.0, [0, 8], "Score: 1", "ok"),
        (None, [0, 8], "Score: 9", "out_of_range"),
        (None, None, None, "no_match"),
    ]
    assert values(votes, "finish_reason", "tokens", "logprob") == [("stop", 2, None)] * 6
    assert values(scores, "candidate_id", "score", "variance", "valid_votes", "votes", "status") == [
        ("p-0", 3.75, 0.0625, 2, 3, "ok"),
        ("p-1", None, None, 1, 3, "few_votes"),
    ]
    warning, summary = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: 3 of 6 judgements did not parse (score.min_parse_rate; ok 3, no_match 2, ")
    assert summary == (
        "score: 6 judgements (ok 3, no_match 2, out_of_range 1), 50.0% parsed, "
        "votes by whole points {1: 1, 3: 1, 4: 1}, top tenth 0.0%, 1 of 2 candidates scored (few_votes 1, ok 1), "
        "mean 3.750, mean variance 0.062"
    )


def test_a_judgement_that_was_cut_short_gives_no_vote(tmp_path: Path) -> None:
    whole = judgements({"p-0": ["Score: 1"], "p-1": ["Score: 2"]})
    rows = [*whole, {**whole[0], "vote": 1, "text": "Score: 5", "finish_reason": "length"}]
    votes, scores = run_score(tmp_path, judgements=saved(tmp_path, "j", JUDGEMENTS, rows))
    assert values(votes, "score", "parse_status") == [(1.0, "ok"), (None, "length"), (2.0, "ok")]
    assert values(scores, "score", "votes") == [(1.0, 2), (2.0, 1)]


@pytest.mark.parametrize(
    ("texts", "settings", "message"),
    [
        ({"p-0": ["Score: 1", "-", "-"]}, {}, "2 of 3 judgements did not parse .*no_match 2.*template"),
        (
            {"p-0": ["Score: 1"], "p-1": ["Score: 2"]},
            {"finish_reason": "length"},
            "2 of 2 judg.*length 2.*raise judge.sampling.max_tokens",
        ),
        ({"p-0": ["Score: 3"], "p-1": ["Score: 3.0"]}, {}, "all 2 scored candidates have the score 3"),
        ({"p-0": ["Score: 3"], "p-1": ["Score: 4"]}, {"min_votes": 2}, "no candidate has the 2 valid votes"),
        (
            {"p-0": ["Score: 5", "Score: 5"], "p-1": ["Score: 5", "Score: 4"], "p-2": ["none"]},
            {"max_top_share": 0.7},
            r"3 of 4 valid votes lie in the top tenth of the range .*share\) \(75.0%, limit 70.0%\).*judge_share",
        ),
        (
            {"p-0": ["Score: 3"], "p-1": ["Score: 3"], "q-0": ["Score: 4"], "q-1": ["Score: 4"]},
            {},
            r"2 of 2 prompts have candidates that all score the same \(score.max_flat_share\) \(100.0%, limit 90.0%\)",
        ),
        ({}, {}, "no rows"),
        (None, {}, "give --judgements, --verifications or both"),
        ({"p-0": ["Score: 3"]}, {"exclude_shortened": True}, "--judge-prompts"),
    ],
)
def test_a_gate_that_fails_replaces_no_output(
    tmp_path: Path, texts: dict[str, list[str]] | None, settings: dict[str, Any], message: str
) -> None:
    for name in ("votes", "scores"):
        (tmp_path / f"{name}.parquet").write_text("old")
    with pytest.raises(StageError, match=message):
        run_score(tmp_path, texts, **settings)
    assert {path.name for path in tmp_path.iterdir()} <= {
        "votes.parquet",
        "scores.parquet",
        "judgements-0-of-1.parquet",
    }
    assert [(tmp_path / f"{name}.parquet").read_text() for name in ("votes", "scores")] == ["old", "old"]


def test_a_share_at_the_limit_passes_the_gates(tmp_path: Path) -> None:
    texts = {"p-0": ["Score: 5", "Score: 4"], "p-1": ["-", "-"]}
    _, scores = run_score(tmp_path, texts, max_top_share=0.5, min_parse_rate=0.5)
    assert values(scores, "score") == [(4.5,), (None,)]


def test_verified_candidates_are_scored_by_their_checks_and_keep_what_the_votes_say(tmp_path: Path) -> None:
    texts = {"b-0": ["Score: 1", "Score: 3"], "b-1": ["Score: 4"], "d-0": ["Score: 2"]}
    passed = {"a-0": [True, False], "b-0": [True, True, False, False], "c-0": [False], "e-0": [True]}
    verifications = saved(tmp_path, "checks", VERIFICATIONS, checks(passed), parts=2)
    _, scores = run_score(tmp_path, texts, verifications=verifications, low=1, high=5)
    assert values(scores, "candidate_id", "score", "variance", "valid_votes", "votes", "status") == [
        ("a-0", 3.0, None, 0, 0, "verified"),
        ("b-0", 3.0, 1.0, 2, 2, "verified"),
        ("b-1", 4.0, 0.0, 1, 1, "ok"),
        ("c-0", 1.0, None, 0, 0, "verified"),
        ("d-0", 2.0, 0.0, 1, 1, "ok"),
        ("e-0", 5.0, None, 0, 0, "verified"),
    ]


@pytest.mark.parametrize("texts", [None, {}])
def test_the_gates_of_votes_do_not_apply_where_nothing_was_judged(
    tmp_path: Path, texts: dict[str, list[str]] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    verifications = saved(tmp_path, "checks", VERIFICATIONS, checks({"a-0": [True], "a-1": [True]}))
    votes, scores = run_score(tmp_path, texts, verifications=verifications, min_parse_rate=1, max_top_share=0)
    assert votes == []
    assert values(scores, "score", "status") == [(5.0, "verified")] * 2
    assert capsys.readouterr().err == "score: 2 of 2 candidates scored (verified 2)\n"


def test_a_response_that_the_judge_saw_shortened_has_no_score_if_so_configured(tmp_path: Path) -> None:
    texts = {"p-0": ["Score: 4"], "p-1": ["Score: 5"], "p-2": ["Score: 2"]}
    seen = [
        {
            "prompt_id": "p",
            "candidate_id": name,
            "messages": [],
            "token_ids": [1],
            "shortened": name != "p-0",
            "judge": "policy",
        }
        for name in texts
    ]
    files = {
        "judge_prompts": saved(tmp_path, "seen", JUDGE_PROMPTS, seen, parts=2),
        "verifications": saved(tmp_path, "checks", VERIFICATIONS, checks({"p-2": [True]})),
    }
    _, scores = run_score(tmp_path, texts, **files, exclude_shortened=True)
    assert values(scores, "score", "status") == [(4.0, "ok"), (None, "shortened"), (5.0, "verified")]
    _, scores = run_score(tmp_path, texts, **files)
    assert values(scores, "score", "status") == [(4.0, "ok"), (5.0, "ok"), (5.0, "verified")]


def many(text: Callable[[int], str], count: int) -> list[Row]:
    return judgements({f"{prompt:02x}-{sample}": [text(prompt * 31 + sample * 7 + vote) for vote in range(5)]
                       for prompt in range(count) for sample in range(3)})  # fmt: skip


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_the_bytes_of_scores_depend_neither_on_the_files_nor_on_the_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    # The names and digests of the input files are in the metadata of an output on purpose.
    monkeypatch.setattr(score, "describe", lambda *_: {})
    rows = many(lambda number: f"Score: {number % 13 / 3:.2f}" if number % 5 else "none", 20)
    rows = [row | {"logprob": -0.7 * (number % 4)} for number, row in enumerate(rows)]
    passed = checks({f"{prompt:02x}-1": [bool(prompt % 2), True, False] for prompt in range(0, 25, 3)})
    found = []
    for parts, reverse in ((1, False), (3, True)):
        monkeypatch.setattr(artifacts, "STREAM_ROWS", piece if parts == 3 else 65_536)
        folder = tmp_path / str(parts)
        files = {
            "judgements": saved(folder, "j", JUDGEMENTS, rows[::-1] if reverse else rows, parts),
            "verifications": saved(folder, "v", VERIFICATIONS, passed, parts),
        }
        run_score(folder, **files, aggregate="expected")
        found.append([(folder / f"{name}.parquet").read_bytes() for name in ("votes", "scores")])
    assert found[0] == found[1]


@given(st.lists(st.sampled_from(["Score: 1", "Score: 2.5", "Score: 9", "-"]), min_size=1), st.randoms())
def test_parsed_votes_follow_their_keys(texts: list[str], random: Any) -> None:
    data = frame(JUDGEMENTS, judgements({"p-0": texts}))
    order = list(range(data.height))
    random.shuffle(order)
    settings = score.Args(votes=Path("v"), scores=Path("s"))
    assert parse_votes(data[order], settings).sort("vote").equals(parse_votes(data, settings))


def test_an_expectation_needs_likelihoods(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="told no likelihood of any judgement"):
        run_score(tmp_path, {"p-0": ["Score: 4"], "p-1": ["Score: 1"]}, aggregate="expected")


def of_panel(texts: dict[str, dict[str, list[str]]]) -> list[Row]:
    """Judgements by judge and candidate; their votes are numbered in turn."""
    return [
        {**row, "judge": judge, "vote": row["vote"] * len(texts) + place}
        for place, (judge, said) in enumerate(texts.items())
        for row in judgements(said)
    ]


def test_votes_of_a_panel_make_one_score_and_name_their_judges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = of_panel(
        {
            "big": {"p-0": ["Score: 4", "Score: 4"], "p-1": ["Score: 1", "none"]},
            "policy": {"p-0": ["Score: 2", "Score: 3"], "p-1": ["Score: 2", "Score: 2"]},
        }
    )
    # As in a run: a file for each judge.
    votes, scores = run_score(tmp_path, judgements=saved(tmp_path, "panel", JUDGEMENTS, rows, parts=2))
    assert values(votes, "candidate_id", "vote", "judge", "score") == [
        ("p-0", 0, "big", 4.0),
        ("p-0", 1, "policy", 2.0),
        ("p-0", 2, "big", 4.0),
        ("p-0", 3, "policy", 3.0),
        ("p-1", 0, "big", 1.0),
        ("p-1", 1, "policy", 2.0),
        ("p-1", 2, "big", None),
        ("p-1", 3, "policy", 2.0),
    ]
    assert values(scores, "score", "valid_votes", "votes") == [(3.25, 4, 4), (round(5 / 3, 9), 3, 4)]
    summary = capsys.readouterr().err.splitlines()[-1]
    assert summary.startswith(
        "score: judge big, 4 judgements (ok 3, no_match 1), 75.0% parsed, votes by whole points {1: 1, 4: 2}, "
        "top tenth 0.0%, judge policy, 4 judgements (ok 4), 100.0% parsed, votes by whole points {2: 3, 3: 1}"
    )


def test_one_judge_of_a_panel_that_cannot_be_read_stops_the_run(tmp_path: Path) -> None:
    told = [f"Score: {1 + number % 4}" for number in range(4)]
    rows = of_panel(
        {"big": {"p-0": ["?"] * 4, "p-1": ["?"] * 4}, "policy": {"p-0": told, "p-1": told[::-1]}, "old": {"p-0": told}}
    )
    with pytest.raises(StageError, match=r"8 of 8 judgements of judge big did not parse"):
        run_score(tmp_path, judgements=saved(tmp_path, "panel", JUDGEMENTS, rows))


def test_a_response_that_several_judges_saw_shortened_is_one_row(tmp_path: Path) -> None:
    rows = of_panel({judge: {"p-0": ["Score: 4"], "p-1": ["Score: 2"]} for judge in ("a", "b")})
    seen = [
        {"prompt_id": "p", "candidate_id": "p-0", "messages": [], "token_ids": [1], "shortened": True, "judge": judge}
        for judge in ("a", "b")
    ]
    files = {
        "judgements": saved(tmp_path, "panel", JUDGEMENTS, rows),
        "judge_prompts": saved(tmp_path, "seen", JUDGE_PROMPTS, seen, parts=2),
    }
    _, scores = run_score(tmp_path, **files, exclude_shortened=True)
    assert values(scores, "candidate_id", "status") == [("p-0", "shortened"), ("p-1", "ok")]
