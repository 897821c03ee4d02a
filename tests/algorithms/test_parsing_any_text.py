"""Verdicts in arbitrary texts, in hostile ones, and in labelled outputs of many models."""

import importlib.util
import json
import re
import time
import unicodedata
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.algorithms.parsing import LENIENT, parse_score, parse_winner, redact
from stages.algorithms.plain_ends import SCORE_END, WINNER_END, plain_ends
from stages.algorithms.votes_and_battles import parse_battles, parse_votes
from stages.config import ScoreSection
from tests.support.lenient import score, winner
from tests.support.verdict_texts import TEXTS

SHARED = Path(__file__).parents[3] / "shared/data/judge_outputs.jsonl"


@given(before=TEXTS, number=st.integers(0, 5), after=TEXTS)
def test_redaction_leaves_no_number_that_equals_the_score(before: str, number: int, after: str) -> None:
    text = f"{before}\nAll in all.\nScore: {number}\n{after}"
    found = score(text)
    left = unicodedata.normalize("NFKC", redact(text, LENIENT))
    if found == ("ok", number):
        assert f"Score: {number}" not in left
    assert not re.search(r"[★⭐]", left)


def test_no_score_shows_where_a_thought_was_cut_out() -> None:
    """Found by fuzzing: with the thought gone, another statement was the last one."""
    text = (
        '>s ٣|٣<[５[44]{"score"Score: <: 4}b\xa0]/twhipo[[４．５4]]ints; nkTota: 3>[[44]]ZSco<think>re− [0★★★</think>'
        "1e-[[4]]4 out of 00-5-1] r0ScoSCOREre= 3٣"
    )
    assert score(text) == ("ok", 4)
    assert score(redact(text, LENIENT)) == ("no_match", None)


@given(TEXTS)
def test_no_text_raises_and_no_score_leaves_the_range(text: str) -> None:
    status, value, span = parse_score(text, "stop", LENIENT, 0, 5)
    assert status in {"ok", "no_match", "out_of_range"}
    assert (value is not None) == (status == "ok")
    assert (span is None) == (status == "no_match")
    assert value is None or 0 <= value <= 5
    assert parse_winner(text, "stop", LENIENT).status in {"ok", "no_match"}
    redact(text, LENIENT)


@given(st.text(st.characters(exclude_characters="<>`|{[")), st.integers(0, 50))
def test_what_comes_before_the_verdict_does_not_count(text: str, tenths: int) -> None:
    assert score(f"{text}\nIn the end.\nScore: {tenths / 10}") == ("ok", tenths / 10)


@given(
    TEXTS,
    st.sampled_from(["\n", ". ", "; ", " "]),
    st.sampled_from(
        [
            *("Score: 4", "**Final score:** 3.5/5", "Total score: 9", "Score: 4/10.", "score:2\n", "Score: <4.5>"),
            *(
                "Score: <4",
                "Score: 4>",
                "Winner: Judgement B",
                "**Winner**: judgment a.",
                "Score: 4\u2003",
                "Score: ４",
            ),
            *("ſcore: 4", "Score:\u00a04", "Score: 4\r\n", "Score: 4\n\n\n\n", "wınner: judgement A", "Score: 04"),
        ]
    ),
)
def test_a_plain_end_is_read_as_the_search_reads_it(text: str, joint: str, end: str) -> None:
    whole = (text + joint + end).encode(errors="replace").decode()  # no column holds half a surrogate
    rows = pl.DataFrame({"text": [whole], "finish_reason": ["stop"], "tokens": [1], "logprob": [None], "vote": [0],
                         "judge": ["policy"], "vote_a": [0], "vote_b": [1], "prompt_id": ["p"],
                         "candidate_id": ["c"]})  # fmt: skip
    vote = parse_votes(rows, ScoreSection()).row(0, named=True)
    status, value, span = parse_score(whole, "stop", LENIENT, 0, 5)
    assert (vote["parse_status"], vote["score"]) == (status, value)
    found = vote["span"]
    # The search takes the number of a list's item along.
    assert (found is None) == (span is None)
    assert span is None or (found[1] == span[1] and found[0] >= span[0])
    assert vote["verdict"] == (found and whole[slice(*found)])
    battle = parse_battles(rows, LENIENT).row(0, named=True)
    assert (battle["parse_status"], battle["winner"]) == parse_winner(whole, "stop", LENIENT)


def test_the_usual_ends_are_read_without_a_search() -> None:
    texts = ["Fine.\nScore: 4", "Fine.\n**Score:** 3.5/5 ", "Good. Total score: <4.5>.", "Fine.\n\nWinner: Judgement B"]
    scores, winners = (plain_ends(pl.Series(texts), pattern) for pattern in (SCORE_END, WINNER_END))
    assert scores["value"].to_list() == ["4", "3.5", "4.5", None]
    assert winners["value"].to_list() == [None, None, None, "B"]


HOSTILE = ["Score: ", "\nScore: x", "\nScore: 3-", "{", '{"a":', "\\boxed{", "[[4", "<think>", "</think>", " ", "1",
           "1+", "★", "a score of ", "I give it ", "Winner: A or ", "~~", "<", "(", "\n", ". ", '"score": 4, ', "```",
           "\n> ", "İscore: 4 ", "\n| Total | ", "Based on ", "The ", "</s>"]  # fmt: skip


@pytest.mark.parametrize("part", HOSTILE)
def test_hostile_text_of_a_megabyte_takes_no_time(part: str) -> None:
    """Measured: at most 50 ms on an idle core. Ten times that is what a quadratic search would exceed at once."""
    text = part * (1_000_000 // len(part))
    began = time.process_time()
    parse_score(text, "stop", LENIENT, 0, 5)
    parse_winner(text, "stop", LENIENT)
    assert time.process_time() - began < 1


def test_a_thought_that_began_long_ago_is_one() -> None:
    words = "Well, let me see. " * 10_000
    assert score(f"<think>{words}Score: 3") == ("no_match", None)
    assert score(f"<think>{words}Score: 3</think>Score: 4") == ("ok", 4)
    assert score(f"<think>Hm.</think>{words}Score: 3") == ("ok", 3)


def test_the_labelled_outputs_of_many_families() -> None:
    """No wrong value, and at least 97 % right, of each kind."""
    if not SHARED.exists():
        pytest.skip(f"needs {SHARED.name}, which is not part of the project")
    rows = [json.loads(line) for line in SHARED.read_text(encoding="utf-8").splitlines()]
    wrong, lost = [], []
    for row in rows:
        if row["kind"] == "score":
            status, value = score(row["text"])
            read = {"no_match": "none", "out_of_range": "oor"}.get(status, value)
        else:
            read = winner(row["text"]) or "none"
        if read not in row["right"]:
            (lost if read in ("none", "oor") else wrong).append(row)
    assert not wrong
    assert len(lost) <= 0.03 * len(rows)


def test_a_short_fuzzing_run_breaks_no_promise() -> None:
    spec = importlib.util.spec_from_file_location("fuzz", Path(__file__).parents[1] / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)
    ends = fuzz.fuzz(inputs=12_000, seed=1)
    assert ends.total() == 12_000
    for target in ("score", "own pattern", "winner", "line", "record", "ranked", "tree"):
        assert ends[f"{target}: ok"] > 50, target
