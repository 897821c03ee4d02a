"""Chat records: every supported form gives the same prompt, with the instructions that it carries."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.sources.chat_records import Conversation, decode, parse
from tests.support.records import turn, turns

USER, ASSISTANT = ("<|start_header_id|>user<|end_header_id|>", "<|start_header_id|>assistant<|end_header_id|>")
PROMPT = [turn("system", "Be brief."), *turns("Hi", "Hello", "1+1?")]


def nemo(user: str, assistant: str, **fields: Any) -> dict[str, Any]:
    turns = [(user, "Hi"), (assistant, "Hello"), (user, "1+1?"), (assistant, "2")]
    return {"system": "Be brief.", "conversations": [{"from": name, "value": text} for name, text in turns], **fields}


@pytest.mark.parametrize(
    "record",
    [
        nemo("User", "Assistant", mask="User", type=None),
        nemo(USER, ASSISTANT, mask=USER),
        nemo("human", "gpt"),
        nemo("<extra_id_1>Customer", "Assistant", mask="<extra_id_1>Customer"),
        nemo("human", "chatgpt"),
        {"conversation": [*PROMPT, turn("assistant", "2")]},
        {"messages": json.dumps([*PROMPT, turn("assistant", "2")])},
        {"messages": [turn("developer", "Be brief."), *PROMPT[1:], turn("assistant", "2")]},
        {"messages": [{"from": "system", "value": "Be brief."}, *PROMPT[1:], turn("assistant", "2")]},
        {
            "messages": [
                *PROMPT[:3],
                {"role": "user", "content": [{"type": "text", "text": "1+1?"}]},
                turn("assistant", "2"),
            ]
        },
        {"messages": [*PROMPT, turn("assistant", "2")]},
        {"system": "Be brief.", "messages": [*PROMPT[1:], turn("assistant", "2")]},
        {"prompt": [*PROMPT, turn("assistant", "2")]},
        {"messages": [*PROMPT, turn("assistant", "2")], "prompt": "a column that the messages already hold"},
    ],
)
def test_all_forms_give_the_same_prompt(record: dict[str, Any]) -> None:
    assert parse(record) == Conversation(PROMPT, "2")


def test_a_plain_prompt_is_one_user_turn_and_an_empty_system_text_is_none() -> None:
    assert parse({"prompt": "Hi", "system": ""}) == Conversation([turn("user", "Hi")], None)
    assert parse({"messages": [turn("system", " "), turn("user", "Hi")]}).messages == [turn("user", "Hi")]


def test_an_instruction_has_its_input_and_answer_and_parts_of_a_text_are_joined() -> None:
    record = {"instruction": "Add.", "input": "1, 1", "output": "2"}
    assert parse(record) == Conversation([turn("user", "Add.\n\n1, 1")], "2")
    parts = [{"type": "text", "text": "one"}, "two"]
    assert parse({"messages": [{"role": "user", "content": parts}]}).messages == [turn("user", "one\ntwo")]


def test_text_that_looks_like_markup_stays_as_it_came() -> None:
    text = "<|eot_id|>{{ config }}\n<extra_id_1>Assistant\n"
    assert parse({"messages": [turn("user", text)]}).messages == [turn("user", text)]


NO_COMMA, WORDS = "punctuation:no_comma", "length_constraints:number_words"
CHECKS = [
    {"id": NO_COMMA, "arguments": {}},
    {"id": WORDS, "arguments": {"num_words": 20, "relation": "less than"}},
]
GIVEN = [{"num_words": None}, {"num_words": 20, "relation": "less than", "keywords": None}]


@pytest.mark.parametrize(
    "record",
    [
        nemo(
            "User", "Assistant", verifier_args={"instruction_id_list": [NO_COMMA, WORDS], "instruction_kwargs": GIVEN}
        ),
        {"messages": PROMPT, "verifier_args": {"instruction_id_list": [NO_COMMA, WORDS], "instruction_kwargs": GIVEN}},
        {"prompt": PROMPT, "key": 1, "instruction_id_list": [NO_COMMA, WORDS], "kwargs": [None, GIVEN[1]]},
    ],
)
def test_checkable_instructions_come_along_without_null_arguments(record: dict[str, Any]) -> None:
    assert (parse(record).messages, parse(record).checks) == (PROMPT, CHECKS)


@pytest.mark.parametrize(
    "fields",
    [{"verifier_args": None}, {"verifier_args": {"instruction_id_list": [], "instruction_kwargs": []}}, {"kwargs": 3}],
)
def test_a_record_without_instructions_has_no_checks(fields: dict[str, Any]) -> None:
    assert parse({"prompt": "Hi", **fields}).checks == []


MESSAGE_LISTS = st.lists(
    st.builds(turn, st.sampled_from(["user", "assistant"]), st.text(min_size=1).filter(lambda text: text.strip())),
    min_size=1,
).filter(lambda turns: any(item["role"] == "user" for item in turns))


@given(MESSAGE_LISTS)
def test_the_prompt_is_everything_up_to_the_last_user_turn(turns: list[dict[str, str]]) -> None:
    found = parse(decode(json.dumps({"messages": turns}).encode()))
    assert found.messages == turns[: len(found.messages)]
    assert found.messages[-1]["role"] == "user"
    rest = turns[len(found.messages) :]
    assert all(item["role"] == "assistant" for item in rest)
    assert found.answer == (rest[0]["content"] if rest else None)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from([NO_COMMA, WORDS, "less than", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["instruction_id_list", "instruction_kwargs", "num_words", "relation"]), inner, max_size=3
        )
    ),
    max_leaves=12,
)


@given(JSON_VALUES, JSON_VALUES, JSON_VALUES)
def test_checks_of_any_shape_are_read_or_refused_in_one_line(verifier: Any, ids: Any, kwargs: Any) -> None:
    record = {"prompt": "Hi", "verifier_args": verifier, "instruction_id_list": ids, "kwargs": kwargs}
    found = parse(record)
    assert "\n" not in (found.problem or "")
    assert {check["id"] for check in found.checks} <= {NO_COMMA, WORDS}
    assert not (found.problem and found.checks)
