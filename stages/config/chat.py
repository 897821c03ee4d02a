"""Settings of how conversations become tokens; the same in generation, judging and training."""

import datetime
from typing import Literal

from pydantic import Field, JsonValue, field_validator

from stages.config.base import Section

OF_THE_TEMPLATE_API = {
    *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
    *("raise_exception", "strftime_now", "additional_special_tokens"),
}
"""What a chat template is given anyway; so is everything that ends in `_token`."""


def check_template_arguments(arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """The arguments; ValueError if one is given by the pipeline itself, or cannot be a variable's name."""
    for name in arguments:
        if name in OF_THE_TEMPLATE_API or name.endswith("_token"):
            raise ValueError(f"template_arguments: {name!r} is set by the pipeline itself; leave it out")
        if not name.isidentifier():
            raise ValueError(f"template_arguments: {name!r} cannot be the name of a template's variable")
    return arguments


class TemplateSettings(Section):
    """How the model's chat template is rendered: what every stage needs that renders it."""

    template_arguments: dict[str, JsonValue] = Field(
        {}, description="Further variables of the model's chat template, such as `enable_thinking: false`."
    )
    date: datetime.date = Field(
        datetime.date(2024, 7, 26),
        description="Today, for a chat template that asks (`strftime_now`): no prompt depends on the clock.",
    )

    @field_validator("template_arguments")
    @classmethod
    def _names_are_free(cls, arguments: dict[str, JsonValue]) -> dict[str, JsonValue]:
        return check_template_arguments(arguments)


AS_IT_IS = TemplateSettings()
"""The template with nothing set."""


class TurnSettings(TemplateSettings):
    """What becomes of conversations that the template refuses, too."""

    system_turns: Literal["keep", "merge", "drop_prompt"] = Field(
        "keep",
        description="Conversations whose turns the chat template refuses: `keep` stops with an error; `merge` puts the "
        "text of system turns into the user turns after them, and leaves out what is refused even so; `drop_prompt` "
        "leaves all of them out. What is left out is in the ledger (`template`).",
    )


class ChatSection(TurnSettings):
    """How conversations become tokens, everywhere alike."""

    train_thoughts: bool = Field(
        True, description="Whether the loss is on the thoughts before an answer, too; otherwise they are context alone."
    )
