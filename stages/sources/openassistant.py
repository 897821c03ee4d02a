"""Trees of OpenAssistant (OASST1, OASST2: `*.trees.jsonl.gz`) as ranked prompts. Pure.

A tree is `{message_tree_id, tree_state, prompt}`; `prompt` is a message, and so is each of its `replies`, with text,
role (`prompter` or `assistant`), lang, deleted, review_result and rank (0: people liked it best; null: not ranked).
Only first turns are used, the prompt and the direct replies to it, as in the seed data of Self-Rewarding (section 3.1).
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from stages.sources.ranked_records import Answer, Drop, RankedPrompt, Text, validated

READY = "ready_for_export"


class _Message(BaseModel):
    model_config = ConfigDict(strict=True)
    text: Text
    role: Text
    lang: Text | None = None
    deleted: bool | None = None
    review_result: bool | None = None
    rank: int | None = None


class _Prompt(_Message):
    replies: list[_Message] | None = None


class _State(BaseModel):
    model_config = ConfigDict(strict=True)
    tree_state: Text | None


class _Tree(BaseModel):
    model_config = ConfigDict(strict=True)
    prompt: _Prompt


def is_tree(record: Any) -> bool:
    """Whether a record is a tree rather than one of the plain form."""
    return isinstance(record, dict) and record.get("message_tree_id") is not None


def parse(record: object, language: str) -> RankedPrompt | Drop:
    """The first turn of a tree with its ranked replies, or why the tree cannot be used.

    Raises FormatError naming the field for a tree that is not of this form.
    """
    state = validated(_State, record).tree_state
    if state != READY:
        return Drop("not_ready", f"tree_state is {state}")
    prompt = validated(_Tree, record).prompt
    if refused := _refusal("prompt", prompt, "prompter", language):
        return refused
    answers, dropped = [], []
    for index, reply in enumerate(prompt.replies or []):
        field = f"prompt.replies.{index}"
        if refused := _refusal(field, reply, "assistant", language):
            dropped.append(refused)
        elif reply.rank is None:
            dropped.append(Drop("unranked", f"{field}: no rank"))
        else:
            answers.append(Answer(field, reply.text, reply.rank))
    return RankedPrompt([{"role": "user", "content": prompt.text}], answers, best=0, dropped=dropped)


def _refusal(field: str, message: _Message, role: str, language: str) -> Drop | None:
    if message.deleted:
        return Drop("deleted", f"{field}: deleted")
    if message.review_result is False:
        return Drop("failed_review", f"{field}: review_result is false")
    if message.role != role:
        return Drop("role", f"{field}: role is {message.role}, not {role}")
    if message.lang != language:
        return Drop("language", f"{field}: lang is {message.lang}, not {language}")
    return None if message.text.strip() else Drop("empty", f"{field}: no text")
