"""Parsing ranked answers: every form of prompt, ranks and qualities, and one clear line for what cannot be read."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.contracts.errors import StageError
from stages.contracts.ids import prompt_id
from stages.sources import openassistant
from stages.sources import ranked_records as ranking
from stages.sources.chat_records import FormatError, decode
from tests.support.ranked_run import BASE, Record, Run, jsonl, message, plain, tree
from tests.support.records import turn, turns


def test_prompts_of_any_conversation_form_are_understood(tmp_path: Path) -> None:
    answers = plain("", 0, 1)["answers"]
    turns = [turn("user", "Hi"), turn("assistant", "Hello"), turn("user", "1+1?")]
    records = [
        {"messages": turns, "system": "Be brief.", "answers": answers},
        {"conversations": [{"from": "human", "value": "Why?"}], "answers": answers},
        {"prompt": [turn("user", "How?")], "answers": answers},
    ]
    run = Run(tmp_path, jsonl(tmp_path, *records), test_fraction=0, ift_fraction=0)
    expected = [[turn("system", "Be brief."), *turns], [turn("user", "Why?")], [turn("user", "How?")]]
    assert {prompt_id(messages) for messages in expected} == set(run.prompts["prompt_id"])


CHOSEN, REJECTED = turns("p", "good"), turns("p", "bad")


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "p", "chosen": "good", "rejected": "bad"},
        {"chosen": CHOSEN, "rejected": REJECTED},
        {"prompt": "p", "chosen": json.dumps(CHOSEN), "rejected": REJECTED},
    ],
)
def test_a_chosen_and_a_rejected_answer_are_ranked_so(record: dict[str, Any]) -> None:
    found = ranking.parse(record)
    assert found.messages == turns("p")
    assert [(answer.text, answer.rank) for answer in found.answers] == [("good", 0), ("bad", 1)]


def test_an_answer_without_text_is_left_out_alone() -> None:
    answers = [{"text": None, "rank": 0}, {"text": "a", "rank": 1}, {"text": "b", "rank": 2}]
    found = ranking.clean(ranking.parse({"prompt": "p", "answers": answers}))
    assert [answer.text for answer in found.answers] == ["a", "b"]
    assert found.dropped == [("empty", "answers.0: no text")]


def test_ranks_start_at_the_best_and_qualities_rank_where_ranks_are_missing() -> None:
    def ranks(answers: list[Record]) -> list[int]:
        return ranking.parse({"prompt": "p", "answers": answers}).ranks

    assert ranks([{"text": "a", "rank": 7}, {"text": "b", "rank": 1}, {"text": "c", "rank": 7}]) == [1, 0, 1]
    assert ranks([{"text": "a", "quality": 2}, {"text": "b", "quality": 4.5}, {"text": "c", "quality": 2.0}]) == [
        1,
        0,
        1,
    ]
    contradicting = [{"text": "a", "rank": 0, "quality": 1}, {"text": "b", "rank": 1, "quality": 5}]
    assert ranks(contradicting) == [0, 1]


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"prompt": "p"}, "'answers'"),
        (plain(" ", 0, 1), "'prompt': empty user text"),
        ({"prompt": "p", "answers": ["a"]}, "'answers.0'"),
        ({"prompt": "p", "answers": [{"rank": 0}]}, r"'answers.0.text'"),
        ({"prompt": "p", "chosen": "a"}, "'messages' holds|none of the fields|expected"),
        ({"chosen": [turn("user", "p"), turn("assistant", "a")], "rejected": [turn("user", "q")]}, "differ before"),
        ({"prompt": "p", "answers": [{"text": "a", "rank": 0.5}]}, r"'answers.0.rank'.*integer"),
        ({"prompt": "p", "answers": [{"text": "a", "rank": True}]}, r"'answers.0.rank'.*integer"),
        ({"prompt": "p", "answers": [{"text": "a", "rank": 0}, {"text": "b"}]}, r"'answers.1.rank' is missing"),
        ({"prompt": "p", "answers": [{"text": "a", "quality": 1}, {"text": "b"}]}, r"'answers.1.quality' is missing"),
        ({"prompt": "p", "answers": [{"text": "a", "quality": float("nan")}]}, r"'answers.0.quality'.*finite"),
        ({"prompt": "p", "answers": [{"text": "\ud800", "rank": 0}]}, r"'answers.0.text'.*surrogates"),
        ({"messages": [turn("user", "p"), turn("assistant", "a")], "answers": []}, "after its last user turn"),
        ({"message_id": "1", "text": "p"}, "none of the fields"),
        ({"message_tree_id": "t", "prompt": {}}, "'tree_state'"),
        (tree("p", {"role": "assistant"}), "'prompt.replies.0.text'"),
        (tree("p", message("a", rank="first")), "'prompt.replies.0.rank'"),
        ({**tree("p"), "prompt": None}, "'prompt'"),
        ([1], "expected an object"),
    ],
)
def test_a_malformed_record_is_refused_with_file_row_and_field(tmp_path: Path, record: Any, problem: str) -> None:
    source = jsonl(tmp_path, BASE[0], record)
    with pytest.raises(StageError, match=rf"ranked\.jsonl: row 2: .*{problem}"):
        Run(tmp_path, source)


@given(st.binary())
def test_the_parsers_refuse_or_read_any_line(line: bytes) -> None:
    try:
        record = decode(line)
        parsed = ranking.clean(ranking.parse(record))
    except FormatError:
        return
    assert len(parsed.ranks) == len(parsed.answers)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt", "answers", "text", "rank", "quality", "replies", "role", "tree_state"]), inner
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_value_makes_the_parsers_fail_in_another_way(value: Any) -> None:
    for parse in (ranking.parse, lambda record: openassistant.parse(record, "en")):
        try:
            parse(value)
        except FormatError as error:
            assert str(error)  # noqa: PT017


def test_answers_over_the_limit_and_answers_to_over_long_prompts_are_dropped() -> None:
    record = {"prompt": "12345", "answers": [{"text": "x" * 9, "rank": 0}, {"text": "short", "rank": 1}]}
    kept = ranking.clean(ranking.parse(record), max_characters=8)
    assert [answer.text for answer in kept.answers] == ["short"]
    assert kept.dropped == [ranking.Drop("overlong", "answers.0: prompt 5, answer 9 characters, limit 8")]
    assert ranking.clean(ranking.parse(record), max_characters=9).dropped == []
    assert ranking.clean(ranking.parse(record), max_characters=4).answers == []
