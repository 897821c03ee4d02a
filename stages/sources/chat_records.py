"""Chat records as data sets hold them, parsed into a prompt and an answer. Pure: no files, no configuration.

The first of these fields that a record has decides its form:

- `conversations`: NeMo's and ShareGPT's turns of `{from, value}`. Roles are free names or whole header strings
  (`User`, `<|start_header_id|>user<|end_header_id|>`); `mask` names the user's role.
- `conversation`, `messages`: turns of `{role, content}`.
- `prompt`: a text, or such turns.
- `instruction`: Alpaca's text, with an `input` that it is about, and the answer `output`.

Turns may have either kind of keys, and stand there as JSON text. Content may be a list of text parts, which are joined
by line breaks; a part of another kind, as an image, cannot be used. A `system` text beside any form becomes the first
turn; `developer` means system. Otherwise the text of a turn is kept as it came.

Checkable instructions are taken from `verifier_args` (NeMo: `instruction_id_list` and `instruction_kwargs`), else from
`instruction_id_list` and `kwargs` (IFEval).
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from stages.algorithms.checks import CHECKS, arguments_of
from stages.contracts.ids import Message

FORMS = ("conversations", "conversation", "messages", "prompt", "instruction")
FIELDS = (*FORMS, "input", "output", "system", "mask", "verifier_args", "instruction_id_list", "kwargs")
"""Every field of a record that is looked at."""

_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
_MARKUP = re.compile(r"<[^<>]*>")


class FormatError(ValueError):
    """A record that is no conversation; the message names the field, the caller adds file and row."""


@dataclass(frozen=True)
class Conversation:
    """A prompt (turns up to and including the last user turn), and what the data set has beside it: its own answer,
    checkable instructions as `{"id": ..., "arguments": {...}}`, why those that are there cannot be followed, and a hint
    for some of the samples."""

    messages: list[Message]
    answer: str | None
    checks: list[dict[str, Any]] = field(default_factory=list)
    problem: str | None = None
    hint: str | None = None

    @property
    def characters(self) -> int:
        """Length of the prompt's text, all turns together."""
        return sum(len(message["content"]) for message in self.messages)


def decode(line: bytes) -> Any:
    """The value of a line of JSON. Raises FormatError where it is no UTF-8 JSON."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FormatError(f"not UTF-8 (byte {error.start + 1}: {error.reason})") from None
    except json.JSONDecodeError as error:
        raise FormatError(f"malformed JSON at character {error.pos + 1}: {error.msg}") from None
    except (ValueError, RecursionError) as error:  # numbers beyond Python's digit limit, bottomless nesting
        raise FormatError(f"malformed JSON: {error}") from None


def parse(record: object) -> Conversation:
    """Prompt and answer of one record, in any form.

    Checkable instructions that nothing can follow (an unknown id, wrong arguments, fewer of one than of the other) are
    left out, and the `problem` told. Raises FormatError, naming the field, for an unknown role, an empty conversation,
    a conversation without a user turn, an empty user turn, and content that is not text.
    """
    if not isinstance(record, dict):
        raise FormatError(f"expected an object, found {_kind(record)}")
    form = next((name for name in FORMS if record.get(name) is not None), None)
    if form is None:
        empty = " (null)" if set(FORMS) & record.keys() else ""
        raise FormatError(f"none of the fields {_list(FORMS)} holds anything; found {_list(record)}{empty}")
    turns = _turns(form, record, _user_role(record) if form == "conversations" else None)
    users = [index for index, turn in enumerate(turns) if turn["role"] == "user"]
    if not users:
        raise FormatError(f"field {form!r}: no user turn")
    end = users[-1] + 1
    system = [_message("system", "system", record["system"])] if record.get("system") is not None else []
    prompt = [turn for turn in system + turns[:end] if turn["role"] != "system" or turn["content"].strip()]
    answers = [turn["content"] for turn in turns[end:] if turn["role"] == "assistant" and turn["content"].strip()]
    answer = answers[0] if answers else None
    hint = None if record.get("sampling_hint") is None else _text("sampling_hint", record["sampling_hint"])
    try:
        return Conversation(prompt, answer, _checks(record), hint=hint)
    except FormatError as error:
        return Conversation(prompt, answer, problem=str(error), hint=hint)


def _checks(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The checkable instructions; `verifier_args` without any are another verifier's."""
    verifier = record.get("verifier_args")
    if isinstance(verifier, dict) and verifier.get("instruction_id_list") is not None:
        return _check_list(verifier, "verifier_args.", "instruction_kwargs")
    return _check_list(record, "", "kwargs") if record.get("instruction_id_list") is not None else []


def _check_list(holder: dict[str, Any], prefix: str, arguments: str) -> list[dict[str, Any]]:
    id_field, arguments_field = f"{prefix}instruction_id_list", f"{prefix}{arguments}"
    ids = _sequence(id_field, holder.get("instruction_id_list"))
    given = _sequence(arguments_field, holder.get(arguments))
    if len(ids) != len(given):
        raise FormatError(f"field {arguments_field!r}: {len(given)} entries for {len(ids)} instructions")
    return [
        _check(f"{id_field}[{index}]", instruction, f"{arguments_field}[{index}]", values)
        for index, (instruction, values) in enumerate(zip(ids, given, strict=True))
    ]


def _check(id_field: str, instruction: object, arguments_field: str, given: object) -> dict[str, Any]:
    name = _text(id_field, instruction)
    if given is not None and not isinstance(given, dict):
        raise FormatError(f"field {arguments_field!r}: expected an object, found {_kind(given)}")
    try:
        return {"id": name, "arguments": arguments_of(name, given or {})}
    except ValueError as error:
        raise FormatError(f"field {arguments_field if name in CHECKS else id_field!r}: {error}") from None


def _turns(form: str, record: dict[str, Any], user_role: str | None) -> list[Message]:
    value = record[form]
    if form == "instruction":
        return _alpaca(record)
    if form == "prompt" and isinstance(value, str):
        return [_message(form, "user", value)]
    if isinstance(value, str):
        try:
            value = decode(value.encode("utf-8", "surrogatepass"))
        except FormatError as error:
            raise FormatError(f"field {form!r}: expected a list of turns, found text: {error}") from None
    if not isinstance(value, list):
        raise FormatError(f"field {form!r}: expected a list of turns, found {_kind(value)}")
    if not value:
        raise FormatError(f"field {form!r}: empty conversation")
    return [_turn(f"{form}[{index}]", turn, user_role) for index, turn in enumerate(value)]


def _turn(where: str, turn: object, user_role: str | None) -> Message:
    if not isinstance(turn, dict):
        raise FormatError(f"field {where!r}: expected an object, found {_kind(turn)}")
    role_key, text_key = ("from", "value") if turn.get("from") is not None else ("role", "content")
    missing = [key for key in (role_key, text_key) if key not in turn]
    if missing:
        raise FormatError(f"field {f'{where}.{missing[0]}'!r} is missing; found {_list(turn)}")
    role = _role(f"{where}.{role_key}", turn[role_key], user_role)
    return _message(f"{where}.{text_key}", role, turn[text_key])


def _alpaca(record: dict[str, Any]) -> list[Message]:
    parts = [_text(name, record[name]) for name in ("instruction", "input") if record.get(name)]
    user = _message("instruction", "user", "\n\n".join(parts))
    output = record.get("output")
    return [user] if output is None else [user, _message("output", "assistant", output)]


def _user_role(record: dict[str, Any]) -> str | None:
    mask = record.get("mask")
    if mask is not None and _known_role(_text("mask", mask)) in ("assistant", "system"):
        raise FormatError(f"field 'mask' must name the user's role, but is {_short(mask)}")
    return mask


def _role(field: str, value: object, user_role: str | None) -> str:
    name = _text(field, value)
    role = _known_role(name) or ("user" if name == user_role else None)
    if role is None:
        raise FormatError(f"field {field!r}: unknown role {_short(name)}; known are user, assistant and system")
    return role


def _known_role(name: str) -> str | None:
    return _ROLES.get(_MARKUP.sub("", name).strip().lower())


def _message(field: str, role: str, value: object) -> Message:
    text = (
        "\n".join(_part(f"{field}[{i}]", p) for i, p in enumerate(value))
        if isinstance(value, list)
        else _text(field, value)
    )
    if role == "user" and not text.strip():
        raise FormatError(f"field {field!r}: empty user text")
    return {"role": role, "content": text}


def _part(field: str, part: object) -> str:
    """The text of one part of a message's content."""
    if isinstance(part, dict) and part.get("type") not in ("text", None):
        raise FormatError(f"field {field!r}: only text can be used, found {_short(part['type'])}")
    return _text(f"{field}.text", part.get("text")) if isinstance(part, dict) else _text(field, part)


def _text(field: str, value: object) -> str:
    if not isinstance(value, str):
        raise FormatError(f"field {field!r}: expected text, found {_kind(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:  # JSON can spell half a surrogate pair, which no file can store
        raise FormatError(f"field {field!r}: character {error.start + 1} is not valid Unicode") from None
    return value


def _sequence(field: str, value: object) -> list[Any]:
    if not isinstance(value, list):
        raise FormatError(f"field {field!r}: expected a list, found {_kind(value)}")
    return value


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _list(names: Any) -> str:
    return ", ".join(_short(name) for name in names) or "nothing"


def _short(name: object) -> str:
    return repr(str(name)[:60])
