"""A model's own template: its arguments, its date, and turns that it refuses."""

import datetime
from pathlib import Path
from typing import Any

import pytest

from stages.config import TemplateSettings
from stages.contracts.errors import StageError
from stages.prompting.chat import ChatTokenizer
from stages.prompting.chat_template import ChatTemplate
from stages.prompting.system_turns import TurnRules, merge
from tests.support.records import turn, turns
from tests.support.tiny_model import CHAT_TEMPLATE, GEMMA, write_tokenizer

SILENT = CHAT_TEMPLATE.replace("<|{{", "{% if message['role'] != 'system' %}<|{{").replace(
    "<|end|>{% endfor", "<|end|>{% endif %}{% endfor"
)
"""A template that leaves system turns out without a word."""


def template(folder: Path, source: str, **settings: Any) -> ChatTemplate:
    write_tokenizer(folder, source)
    return ChatTemplate(folder, TemplateSettings(**settings))


def shown(folder: Path, source: str, **settings: Any) -> str:
    """The template's own text around one user turn `Hi`."""
    pieces = template(folder, source, **settings).render(("user",), True)
    return "".join(piece if isinstance(piece, str) else "Hi" for piece in pieces)


def test_arguments_reach_the_template_as_in_the_library(tmp_path: Path) -> None:
    source = CHAT_TEMPLATE + "{% if enable_thinking is defined and enable_thinking is false %}(no thoughts){% endif %}"
    assert shown(tmp_path, source).endswith("<|assistant|>")
    assert shown(tmp_path, source, template_arguments={"enable_thinking": False}).endswith("<|assistant|>(no thoughts)")
    from transformers import AutoTokenizer

    library = AutoTokenizer.from_pretrained(tmp_path)
    expected = library.apply_chat_template(
        turns("Hi"), add_generation_prompt=True, return_dict=False, enable_thinking=False
    )
    settings = TemplateSettings(template_arguments={"enable_thinking": False})
    assert ChatTokenizer(tmp_path, settings).encode(turns("Hi")) == expected


@pytest.mark.parametrize("name", ["messages", "add_generation_prompt", "tools", "eos_token", "strftime_now"])
def test_what_the_pipeline_sets_itself_is_no_argument(name: str) -> None:
    with pytest.raises(ValueError, match=f"template_arguments: '{name}' is set by the pipeline itself"):
        TemplateSettings(template_arguments={name: 1})


def test_an_argument_that_the_template_does_not_look_at_is_refused(tmp_path: Path) -> None:
    source = CHAT_TEMPLATE + "{% if enable_thinking %}!{% endif %}"
    template(tmp_path, source, template_arguments={"enable_thinking": True}).check_arguments()
    wrong = template(tmp_path, source, template_arguments={"enable_thoughts": True})
    with pytest.raises(StageError, match=r"no variable 'enable_thoughts'.*looks at .*enable_thinking"):
        wrong.check_arguments()


def test_a_template_that_asks_for_the_date_gets_the_set_one(tmp_path: Path) -> None:
    source = "{{ strftime_now('%d %B %Y, %a %H:%M') }}" + CHAT_TEMPLATE
    assert shown(tmp_path, source).startswith("26 July 2024, Fri 00:00<|user|>")
    assert shown(tmp_path, source, date=datetime.date(2025, 1, 2)).startswith("02 January 2025, Thu 00:00<|user|>")
    assert shown(tmp_path, source, date="2025-12-31").startswith("31 December 2025, Wed 00:00<|user|>")


def test_a_template_that_fails_in_any_way_refuses_the_turns(tmp_path: Path) -> None:
    """Templates fail by Python's own errors, too: `none + text` is a TypeError."""
    write_tokenizer(tmp_path, CHAT_TEMPLATE.replace("<|end|>", "<|end|>{{ none + m }}", 1))
    with pytest.raises(StageError, match=r"chat template refuses the turns \['user', 'assistant'\]"):
        ChatTokenizer(tmp_path)


SYSTEM = [turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Hello."), turn("user", "Bye")]
JOINED = [turn("user", "Be brief.\n\nHi"), *SYSTEM[2:]]


@pytest.mark.parametrize("source", [GEMMA, SILENT], ids=["refusing", "silent"])
def test_each_setting_for_a_template_without_system_turns(tmp_path: Path, source: str) -> None:
    found = template(tmp_path, source)
    with pytest.raises(StageError, match=r"data\.jsonl: row 7: .*\['system', 'user', .*`merge`.*`drop_prompt`"):
        TurnRules(found, "keep").admit(SYSTEM, "data.jsonl: row 7")
    assert TurnRules(found, "merge").admit(SYSTEM, "") == (JOINED, None)
    dropped = TurnRules(found, "drop_prompt").admit(SYSTEM, "")
    assert "'system', 'user'" in (dropped.refusal or "")
    for setting in ("keep", "merge", "drop_prompt"):
        assert TurnRules(found, setting).admit(JOINED, "") == (JOINED, None)


def test_what_is_refused_even_without_system_turns_is_left_out(tmp_path: Path) -> None:
    admitted = TurnRules(template(tmp_path, GEMMA), "merge").admit([turn("user", "a"), turn("user", "b")], "")
    assert "Conversation roles must alternate" in (admitted.refusal or "")


def test_turns_that_the_template_renders_stay_as_they_are(tmp_path: Path) -> None:
    assert TurnRules(template(tmp_path, CHAT_TEMPLATE), "merge").admit(SYSTEM, "") == (SYSTEM, None)


def test_system_text_goes_before_the_next_user_turn_or_after_the_last_turn() -> None:
    later = [turn("user", "a"), turn("assistant", "b"), turn("system", "s"), turn("system", "t"), turn("user", "c")]
    assert merge(later) == [turn("user", "a"), turn("assistant", "b"), turn("user", "s\n\nt\n\nc")]
    assert merge([turn("user", "a"), turn("system", "s")]) == [turn("user", "a\n\ns")]
    assert merge([turn("system", "s")]) == [turn("user", "s")]
