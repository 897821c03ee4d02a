"""A model's own chat template, rendered with a placeholder for each message: it never sees what a message says."""

import datetime
import functools
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Template, TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stages.algorithms.thoughts import Thought, opened_thought
from stages.config.chat import TemplateSettings
from stages.contracts.errors import StageError
from stages.contracts.files import load_json
from stages.contracts.ids import Message

_EDGE = "\x1c"
"""Counts as whitespace: a placeholder that has lost it was trimmed by the template, and so must the message be."""
_PLACEHOLDER = "zq7message{}zq7"
_SLOT = re.compile(f"({_EDGE}?)" + _PLACEHOLDER.format(r"(\d+)") + f"({_EDGE}?)")


class Slot(NamedTuple):
    """Where message number `place` stands in a rendered template, and whether the template trims it."""

    place: int
    trim_left: bool
    trim_right: bool

    def cut(self, text: str) -> str:
        """A message's text as the template shows it."""
        text = text.lstrip() if self.trim_left else text
        return text.rstrip() if self.trim_right else text


class RefusedTurnsError(StageError):
    """The turns of a conversation are none that a chat template renders."""


class ChatTemplate:
    """The chat template of a Hugging Face model directory, with its further variables and its date.

    Raises StageError if there is none, or none that is valid.
    """

    def __init__(self, model_dir: Path, settings: TemplateSettings):
        self.model_dir, self.settings = model_dir, settings
        config = _optional_json(model_dir / "special_tokens_map.json")
        config |= _optional_json(model_dir / "tokenizer_config.json")
        self.source = _template_source(model_dir, config)
        """The template itself."""
        self.names = {key: _content(value) for key, value in config.items() if key.endswith("_token") and value}
        """The special tokens that the directory names, by their name (`eos_token`)."""
        self._environment = _environment(settings.date)
        self._template = self._compile()
        self.render = functools.cache(self._render)

    def refusal(self, messages: Sequence[Message]) -> str | None:
        """Why the template does not render these turns as a prompt; None if it does."""
        try:
            self.render(tuple(message["role"] for message in messages), True)
        except RefusedTurnsError as refusal:
            return str(refusal)
        return None

    @cached_property
    def opening(self) -> str:
        """What the prompt for an answer ends in, if it leaves a thought open: `<think>` and what follows it."""
        *_, last = self.render(("user",), True)
        return opened_thought(last) if isinstance(last, str) else ""

    def past_answer(self, thought: Thought) -> str | None:
        """What the template shows of an earlier answer that begins with a thought; None if it shows all of it."""
        shown = {"hidden": thought.answer.lstrip("\n"), "hidden_but_its_break": thought.answer}
        return shown.get(self._past_thoughts)

    @cached_property
    def _past_thoughts(self) -> str:
        """What becomes of thoughts in earlier answers. Templates look for them in what an answer says, and mostly hide
        them; in a placeholder there is none to find."""
        answer, thought = "zq7answer", "zq7thought"
        plain, whole = (
            self._text([_turn("user", "a"), _turn("assistant", text), _turn("user", "b")], True)
            for text in (answer, f"<think>\n{thought}\n</think>\n\n{answer}")
        )
        if thought in whole or answer not in whole:
            return "shown"
        return "hidden" if whole == plain else "hidden_but_its_break"

    def check_arguments(self) -> None:
        """StageError that names an argument which the template does not look at."""
        used = meta.find_undeclared_variables(self._environment.parse(self.source))
        for name in self.settings.template_arguments:
            if name not in used:
                raise StageError(
                    f"{self.model_dir}: the chat template has no variable {name!r}, which chat.template_arguments "
                    f"sets; it looks at {', '.join(sorted(used))}"
                )

    def _render(self, roles: tuple[str, ...], add_generation_prompt: bool) -> list[str | Slot]:
        """The template for a sequence of roles: its own text, and one slot per message.

        Raises RefusedTurnsError if it raises an error, or does not show each message once.
        """
        marks = [_EDGE + _PLACEHOLDER.format(index) + _EDGE for index in range(len(roles))]
        messages = [_turn(role, mark) for role, mark in zip(roles, marks, strict=True)]
        first, *slots = _SLOT.split(self._text(messages, add_generation_prompt))
        pieces: list[str | Slot] = [first]
        for left, index, right, text in zip(*(slots[i::4] for i in range(4)), strict=True):
            pieces += [Slot(int(index), not left, not right), text]
        if sorted(piece.place for piece in pieces if isinstance(piece, Slot)) != list(range(len(roles))):
            raise RefusedTurnsError(
                f"{self.model_dir}: chat template loses or repeats a message for the turns {list(roles)}; "
                "give a template that shows each message once"
            )
        return [piece for piece in pieces if piece]

    def _text(self, messages: list[Message], add_generation_prompt: bool) -> str:
        given = {
            **self.settings.template_arguments,
            **self.names,
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
        }
        try:
            return self._template.render(given)
        except Exception as error:  # a template is a program of others, and raises what it likes
            roles = [message["role"] for message in messages]
            raise RefusedTurnsError(f"{self.model_dir}: chat template refuses the turns {roles}: {error}") from error

    def _compile(self) -> Template:
        try:
            return self._environment.from_string(self.source)
        except TemplateError as error:
            raise StageError(f"{self.model_dir}: chat template is not valid: {error}") from error


class _GenerationBlock(Extension):
    """`{% generation %}` marks assistant text for other trainers; here its body is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it as an instance variable)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _environment(date: datetime.date) -> ImmutableSandboxedEnvironment:
    """What Transformers gives templates, but for the clock. Names of days and months are English: Python starts in the
    C locale, and nothing here leaves it."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, loopcontrols]
    )
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = datetime.datetime.combine(date, datetime.time()).strftime
    return environment


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _raise(message: str) -> None:
    raise TemplateError(message)


def _template_source(model_dir: Path, config: dict[str, Any]) -> str:
    path = model_dir / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    if isinstance(source, list):
        source = next((item["template"] for item in source if item["name"] == "default"), None)
    if not source:
        raise StageError(f"{model_dir}: no chat template; add chat_template.jinja, or use an instruction-tuned model")
    return str(source)


def _content(value: Any) -> str:
    return str(value["content"] if isinstance(value, dict) else value)


def _optional_json(path: Path) -> dict[str, Any]:
    return load_json(path, "") if path.is_file() else {}
