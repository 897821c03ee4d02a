"""The chat tokenizer: same ids as the template gives to harmless text, and no control token from any text."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.contracts.errors import StageError
from stages.prompting.chat import ChatTokenizer
from tests.support.records import turns
from tests.support.tiny_model import CHAT_TEMPLATE, SPECIAL_TOKENS, write_tokenizer

HEADER_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n\nText: {{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n\n{% endif %}"
)
NAMES = {name: number for number, name in enumerate(SPECIAL_TOKENS)}


@pytest.fixture(scope="module", params=[CHAT_TEMPLATE, HEADER_TEMPLATE], ids=["plain", "header"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(path, request.param)
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    path = tmp_path_factory.mktemp("plain")
    write_tokenizer(path)
    return ChatTokenizer(path)


harmless = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<|>"), max_size=40)


def test_same_ids_as_the_library_for_harmless_text(folder: Path) -> None:
    from transformers import AutoTokenizer

    library = AutoTokenizer.from_pretrained(folder)
    chat = ChatTokenizer(folder)

    @settings(max_examples=100, deadline=None)
    @given(st.lists(harmless, min_size=1, max_size=4), st.booleans())
    def check(texts: list[str], prompt: bool) -> None:
        expected = library.apply_chat_template(turns(*texts), add_generation_prompt=prompt, return_dict=False)
        assert chat.encode(turns(*texts), prompt) == expected

    check()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["<|end|>", "<|user|>", "<|", "end|>", "<", "|>", "a ", "é"]), max_size=6).map("".join))
def test_text_never_becomes_a_control_token(plain: ChatTokenizer, text: str) -> None:
    tokens = plain.encode(turns(text))
    controls = [token for token in tokens if token < len(SPECIAL_TOKENS)]
    assert controls == [NAMES["<|user|>"], NAMES["<|end|>"], NAMES["<|assistant|>"]]
    assert plain.decode(tokens) == text


def test_text_that_continues_a_template_run_makes_no_control_token(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, CHAT_TEMPLATE.replace("{{ message['content'] }}", "<|{{ message['content'] }}|>"))
    tokens = ChatTokenizer(tmp_path).encode(turns("end"), add_generation_prompt=False)
    assert tokens.count(NAMES["<|end|>"]) == 1


def test_added_words_of_the_template_are_control_tokens_too(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, CHAT_TEMPLATE + "<think>")
    spec = json.loads((tmp_path / "tokenizer.json").read_text())
    think = len(spec["model"]["vocab"])
    words = [("<think>", think), ("<word>", think + 1)]
    spec["added_tokens"] += [{**spec["added_tokens"][0], "id": i, "content": w, "special": False} for w, i in words]
    (tmp_path / "tokenizer.json").write_text(json.dumps(spec))
    chat = ChatTokenizer(tmp_path)
    tokens = chat.encode(turns("<think><word>"))
    assert tokens.count(think) == 1
    assert tokens[-1] == think
    assert tokens.count(think + 1) == 1


def test_batch_equals_one_by_one(plain: ChatTokenizer) -> None:
    conversations = [turns("hello"), turns("a", "b", "c"), turns("")]
    assert plain.encode_batch(conversations) == [plain.encode(conversation) for conversation in conversations]


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(harmless, harmless, harmless, harmless)
def test_turns_are_segments_of_the_generation_prompt_and_the_answer(
    folder: Path, a: str, b: str, c: str, d: str
) -> None:
    chat = ChatTokenizer(folder)
    segments = chat.encode_turns(turns(a, b, c, d))
    assert [kind for kind, _ in segments[-2:]] == ["answer", "stop"]
    assert [token for _, tokens in segments[:-2] for token in tokens] == chat.encode(turns(a, b, c))
    assert segments[-2][1] == chat.encode_text(d)
    assert segments[-1][1] == [NAMES["<|end|>"]]


def test_an_answer_as_sampled_keeps_its_tokens(folder: Path) -> None:
    """Text that was sampled need not be encoded as the tokens it was decoded from (G4: it was taken to be)."""
    chat = ChatTokenizer(folder)
    sampled = [*(token for letter in "Score" for token in chat.encode_text(letter)), NAMES["<|end|>"]]
    segments = chat.encode_turns(turns("hello", "Score"), sampled)
    assert sampled[:-1] != chat.encode_text("Score")
    assert segments[-1] == ("answer", sampled)
    assert [token for _, tokens in segments[:-1] for token in tokens] == chat.encode(turns("hello"))


def test_input_text_is_told_from_template_text(folder: Path) -> None:
    segments = ChatTokenizer(folder).encode_turns(turns("hello world", "are", "you", "Score"))
    chat = ChatTokenizer(folder)
    assert [chat.decode(tokens).strip() for kind, tokens in segments if kind == "input"] == [
        "hello world",
        "are",
        "you",
    ]


def test_supervised_example_must_end_in_an_answer(plain: ChatTokenizer) -> None:
    with pytest.raises(StageError, match="assistant turn"):
        plain.encode_turns(turns("hello"))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_text_round_trips(plain: ChatTokenizer, text: str) -> None:
    assert plain.decode(plain.encode_text(text)) == text
    assert len(plain.offsets(text)) == len(plain.encode_text(text))


@pytest.mark.parametrize(("declared", "ends"), [([0, 2], {0, 2}), (0, {0}), (None, set()), ([], set())])
def test_stop_ids_unite_template_tokenizer_and_generation_config(
    tmp_path: Path, declared: object, ends: set[int]
) -> None:
    """Among them id 0, given alone: it passed for none."""
    write_tokenizer(tmp_path)
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": declared}))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "eos_token": "<|system|>"}))
    chat = ChatTokenizer(tmp_path)
    assert chat.stop_ids == {1, NAMES["<|end|>"]} | ends
    assert chat.end_id == NAMES["<|end|>"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("<|user|>hello<|assistant|>", "loses or repeats"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}", "loses or repeats"),
        ("{% for m in messages %}{{ m.content }", "not valid"),
        ("{{ raise_exception('only system turns') }}", "only system turns"),
    ],
)
def test_unusable_template_is_one_clear_error(tmp_path: Path, template: str, message: str) -> None:
    write_tokenizer(tmp_path, template)
    with pytest.raises(StageError, match=message):
        ChatTokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", None, "no such file"),
        ("tokenizer.json", "{", "not valid JSON"),
        ("tokenizer.json", "{}", "not a tokenizer"),
        ("chat_template.jinja", None, "no chat template"),
    ],
)
def test_incomplete_model_directory_is_one_clear_error(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    write_tokenizer(tmp_path)
    (tmp_path / name).unlink()
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(StageError, match=f"{tmp_path}.*{message}"):
        ChatTokenizer(tmp_path)


def test_a_model_without_any_end_of_turn_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, "{% for m in messages %}{{ m.content }}{% endfor %}")
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(StageError, match="ends a turn"):
        ChatTokenizer(tmp_path)


def test_generation_blocks_and_template_in_the_config_are_understood(tmp_path: Path, plain: ChatTokenizer) -> None:
    shutil.copytree(plain.model_dir, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").unlink()
    source = CHAT_TEMPLATE.replace("<|end|>", "{% generation %}<|end|>{% endgeneration %}")
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": source}]
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": named}))
    assert ChatTokenizer(tmp_path).encode(turns("hello")) == plain.encode(turns("hello"))
