"""Ranked answers to a prompt, parsed and cleaned. Pure: no files, no configuration.

The plain form is a record with a prompt, in any form of `stages.sources.chat_records`, and `answers`: a list of
`{text, rank}`, the smallest rank being the best and equal ranks ties. An answer may carry `quality`, a reference score
on the judge's scale; where no answer has a rank, the qualities rank them.

The form of preferences is a record with `chosen` and `rejected`: two texts beside a prompt, or two conversations that
differ in their last turn, the answer.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, FiniteFloat, ValidationError

from stages.contracts.ids import Message
from stages.sources import chat_records as conversations
from stages.sources.chat_records import FormatError

Model = TypeVar("Model", bound=BaseModel)
FIELDS = ("answers", "chosen", "rejected")
"""Every field of a record that is looked at beside the prompt's."""


def _storable(text: str) -> str:
    text.encode("utf-8")  # JSON can spell half a surrogate pair, which no file can store
    return text


Text = Annotated[str, AfterValidator(_storable)]
"""Text that can be written to a file."""


class Drop(NamedTuple):
    """Why a prompt, or some answers of it, are not used."""

    reason: str
    detail: str


@dataclass(frozen=True)
class Answer:
    """One answer: `field` is where the record has it, `rank` as people gave it, the smallest the best."""

    field: str
    text: str
    rank: int
    quality: float | None = None


@dataclass(frozen=True)
class RankedPrompt:
    """A prompt with its answers in the record's order, the rank that its best answer has, and what was dropped."""

    messages: list[Message]
    answers: list[Answer]
    best: int
    dropped: list[Drop]

    @property
    def ranks(self) -> list[int]:
        """Rank of each answer among those that are here: 0 is the best, equal ranks are ties, no rank is skipped."""
        return dense([answer.rank for answer in self.answers])


class _PlainAnswer(BaseModel):
    model_config = ConfigDict(strict=True)
    text: Text | None
    rank: int | None = None
    quality: FiniteFloat | None = None


class _PlainRecord(BaseModel):
    model_config = ConfigDict(strict=True)
    answers: list[_PlainAnswer]


def parse(record: object) -> RankedPrompt:
    """A record of the plain form, or of preferences.

    Raises FormatError, naming the field, for what `conversations.parse` refuses, a prompt that does not end in a user
    turn, and answers that are malformed or have neither ranks nor qualities throughout.
    """
    if isinstance(record, dict) and record.get("answers") is None and record.get("chosen") is not None:
        record = _with_answers(record)
    conversation = conversations.parse(record)
    if conversation.answer is not None:
        raise FormatError("the prompt goes on after its last user turn; ranked answers belong in the field 'answers'")
    given = validated(_PlainRecord, record).answers
    by_rank = any(answer.rank is not None for answer in given)
    values = [answer.rank if by_rank else None if answer.quality is None else -answer.quality for answer in given]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        field = f"answers.{values.index(None)}.{'rank' if by_rank else 'quality'}"
        raise FormatError(f"field {field!r} is missing: give each answer a rank, or each a quality and none a rank")
    answers = [
        Answer(f"answers.{index}", answer.text or "", rank, answer.quality)
        for index, (answer, rank) in enumerate(zip(given, dense(known), strict=True))
    ]
    return RankedPrompt(conversation.messages, answers, best=0, dropped=[])


def _with_answers(record: dict[str, Any]) -> dict[str, Any]:
    """A record of preferences in the plain form."""
    given = {name: record.get(name) for name in ("chosen", "rejected")}
    if not all(isinstance(value, str) for value in given.values()):
        parsed = {name: conversations.parse({"messages": value}) for name, value in given.items()}
        if parsed["chosen"].messages != parsed["rejected"].messages:
            raise FormatError("fields 'chosen' and 'rejected': their conversations differ before the last turn")
        record = {"messages": parsed["chosen"].messages}
        given = {name: conversation.answer for name, conversation in parsed.items()}
    answers = [{"text": text, "rank": rank} for rank, text in enumerate(given.values())]
    return {name: record[name] for name in conversations.FIELDS if name in record} | {"answers": answers}


def clean(prompt: RankedPrompt, max_characters: int | None = None) -> RankedPrompt:
    """The prompt without empty and over-long answers, and with the best-ranked one of answers that are equal up to
    surrounding whitespace; what goes is in `dropped`. All answers to an over-long prompt are over-long."""
    asked = sum(len(message["content"]) for message in prompt.messages)
    limit = math.inf if max_characters is None else max_characters
    kept: dict[str, Answer] = {}
    dropped = list(prompt.dropped)
    for answer in sorted(prompt.answers, key=lambda answer: answer.rank):
        text = answer.text.strip()
        if not text:
            dropped.append(Drop("empty", f"{answer.field}: no text"))
        elif max(asked, len(text)) > limit:
            detail = f"{answer.field}: prompt {asked}, answer {len(text)} characters, limit {limit}"
            dropped.append(Drop("overlong", detail))
        elif text in kept:
            dropped.append(Drop("duplicate_answer", f"{answer.field} repeats {kept[text].field}"))
        else:
            kept[text] = answer
    answers = [answer for answer in prompt.answers if answer in kept.values()]
    return replace(prompt, answers=answers, dropped=dropped)


def dense(values: list[int] | list[float]) -> list[int]:
    """The place of each value among the distinct ones, from 0 for the smallest."""
    places = {value: place for place, value in enumerate(sorted(set(values)))}
    return [places[value] for value in values]


def validated(kind: type[Model], value: object) -> Model:
    """`value` as a model of this kind. Raises FormatError naming the first field that is wrong."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise FormatError(f"field {field!r}: {first['msg']}") from None
