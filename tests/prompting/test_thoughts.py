"""Thoughts under a chat template: with tokens of their own, in the place where the template puts them."""

from pathlib import Path

import pytest

from stages.prompting.chat import ChatTokenizer
from tests.support.records import turns
from tests.support.tiny_model import CHAT_TEMPLATE, DEEPSEEK, THINKING, add_marks_of_thoughts, write_tokenizer

THOUGHT = "<think>\nFrance.\n</think>\n\nParis."
END = 4


def model(folder: Path, template: str, special: bool = False) -> tuple[ChatTokenizer, int, int]:
    write_tokenizer(folder, template)
    begin, end = add_marks_of_thoughts(folder, special)
    return ChatTokenizer(folder), begin, end


def library(folder: Path, *texts: str, prompt: bool = False) -> list[int]:
    from transformers import AutoTokenizer

    found = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        turns(*texts), add_generation_prompt=prompt, return_dict=False
    )
    assert isinstance(found, list)
    return found


def flat(chat: ChatTokenizer, *texts: str) -> list[int]:
    return [token for _, tokens in chat.encode_turns(turns(*texts)) for token in tokens]


def kinds(chat: ChatTokenizer, *texts: str) -> dict[str, str]:
    return {kind: chat.decode(tokens) for kind, tokens in chat.encode_turns(turns(*texts)) if kind != "input"}


@pytest.mark.parametrize("template", [THINKING, DEEPSEEK], ids=["qwen", "deepseek"])
def test_an_answer_without_a_thought_is_none_even_where_the_prompt_opens_one(tmp_path: Path, template: str) -> None:
    """trl#6433: `<think>\\nParis.` taught the model to answer inside a thought that nothing closes."""
    chat, begin, end = model(tmp_path, template)
    tokens = flat(chat, "Capital?", "Paris.")
    assert tokens == library(tmp_path, "Capital?", "Paris.")
    assert tokens.count(begin) == tokens.count(end) == (template == THINKING)
    assert kinds(chat, "Capital?", "Paris.")["answer"] == "Paris."


@pytest.mark.parametrize("template", [THINKING, CHAT_TEMPLATE], ids=["opened by the prompt", "opened by the model"])
def test_a_thought_before_an_answer_has_the_tokenizers_own_marks(tmp_path: Path, template: str) -> None:
    chat, begin, end = model(tmp_path, template)
    tokens = flat(chat, "Capital?", THOUGHT)
    assert tokens == library(tmp_path, "Capital?", THOUGHT)
    assert tokens.count(begin) == tokens.count(end) == 1
    found = kinds(chat, "Capital?", THOUGHT)
    assert found["thought"] == ("France.\n</think>" if template == THINKING else "<think>\nFrance.\n</think>")
    assert found["answer"] == "\n\nParis."


def test_a_thought_of_a_tokenizer_without_marks_keeps_its_ids(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    chat = ChatTokenizer(tmp_path)
    assert flat(chat, "Capital?", THOUGHT) == [*chat.encode(turns("Capital?")), *chat.encode_text(THOUGHT), END]
    assert kinds(chat, "Capital?", THOUGHT)["thought"] == "<think>\nFrance.\n</think>"


@pytest.mark.parametrize("template", [THINKING, DEEPSEEK, CHAT_TEMPLATE], ids=["qwen", "deepseek", "plain"])
def test_thoughts_in_earlier_turns_are_what_the_template_makes_of_them(tmp_path: Path, template: str) -> None:
    chat, begin, _ = model(tmp_path, template)
    texts = ("Capital?", THOUGHT, "Sure?")
    assert chat.encode(turns(*texts)) == library(tmp_path, *texts, prompt=True)
    assert chat.encode(turns(*texts)).count(begin) == 1


@pytest.mark.parametrize(
    "texts",
    [(THOUGHT,), ("a", "b <think>c</think>", "d"), ("a", "<think>b", "c"), ("a", "<think><think>b</think>", "c")],
    ids=["user", "not leading", "not closed", "twice"],
)
@pytest.mark.parametrize("special", [False, True])
def test_other_text_never_becomes_a_mark(tmp_path: Path, texts: tuple[str, ...], special: bool) -> None:
    chat, begin, end = model(tmp_path, CHAT_TEMPLATE, special)
    tokens = chat.encode(turns(*texts))
    assert not {begin, end} & set(tokens)
    assert chat.decode(tokens) == "".join(texts)


@pytest.mark.parametrize("special", [False, True])
def test_marks_are_shown_in_text_special_or_not(tmp_path: Path, special: bool) -> None:
    """Else a thought would run into its answer."""
    chat, begin, end = model(tmp_path, CHAT_TEMPLATE, special)
    sampled = [begin, *chat.encode_text("France."), end, *chat.encode_text("Paris."), END]
    assert chat.decode(sampled) == "<think>France.</think>Paris."


@pytest.mark.parametrize("marks", [True, False])
def test_how_many_sampled_tokens_are_thoughts(tmp_path: Path, marks: bool) -> None:
    write_tokenizer(tmp_path)
    if marks:
        begin, end = ([token] for token in add_marks_of_thoughts(tmp_path))
    chat = ChatTokenizer(tmp_path)
    if not marks:
        begin, end = chat.encode_text("<think>"), chat.encode_text("</think>")
    thought = [*begin, *chat.encode_text("a b"), *end]
    answer = [*chat.encode_text("world"), END]
    assert chat.thought_length([*thought, *answer]) == len(thought)
    assert chat.thought_length([*thought, *thought, *answer]) == 2 * len(thought)
    assert chat.thought_length([*thought, *chat.encode_text("world"), *end, END]) == len(thought)
    assert chat.thought_length(answer) == chat.thought_length([]) == 0
    segments = chat.encode_turns(turns("hello", "world"), [*thought, *answer])
    assert segments[-2:] == [("thought", thought), ("answer", answer)]
