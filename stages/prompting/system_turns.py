"""Conversations whose turns the model's chat template refuses: decided before anything is generated."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from stages.contracts.errors import StageError
from stages.contracts.ids import Message
from stages.prompting.chat_template import ChatTemplate


class Admitted(NamedTuple):
    """The turns to use, and why they cannot be used, if so."""

    messages: list[Message]
    refusal: str | None


class TurnRules:
    """What `chat.system_turns` makes of a prompt; without a template, every prompt is used as it is."""

    def __init__(self, template: ChatTemplate | None, system_turns: Literal["keep", "merge", "drop_prompt"]):
        self.template, self.system_turns = template, system_turns

    def admit(self, messages: list[Message], where: str) -> Admitted:
        """The turns that the template renders, or why it renders none of them.

        Raises StageError that names the prompt (`where`) if nothing is set for one that is refused.
        """
        refusal = self.template.refusal(messages) if self.template else None
        if self.template is None or refusal is None:
            return Admitted(messages, None)
        if self.system_turns == "keep":
            raise StageError(
                f"{where}: {refusal}. Set chat.system_turns: `merge` puts system turns into the user's, `drop_prompt` "
                "leaves such conversations out"
            )
        if self.system_turns == "drop_prompt":
            return Admitted(messages, refusal)
        joined = merge(messages)
        return Admitted(joined, self.template.refusal(joined))


ANY_TURNS = TurnRules(None, "keep")
"""Those of no template."""


def merge(messages: Sequence[Message]) -> list[Message]:
    """The turns with the text of system turns before that of the next user turn, a blank line between them; where none
    follows, after that of the last turn."""
    turns: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif message["role"] == "user":
            turns.append({"role": "user", "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            turns.append(message)
    if waiting:
        last = turns.pop() if turns else {"role": "user", "content": ""}
        texts = [last["content"], *waiting] if last["content"] else waiting
        turns.append({"role": last["role"], "content": "\n\n".join(texts)})
    return turns
