"""Prompt templates (Jinja2, sandboxed): the only place where text is put into a prompt. Values are never templates."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from stages.contracts.errors import StageError
from stages.contracts.ids import Message, digest

JUDGE_VARIABLES = {"conversation", "response", "reference"}
META_JUDGE_VARIABLES = {"conversation", "response", "judgement_a", "judgement_b"}
COMPARE_VARIABLES = {"conversation", "response_a", "response_b"}

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True)
_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


@dataclass(frozen=True)
class PromptTemplate:
    """A template file, ready to render."""

    path: Path
    digest: str
    variables: frozenset[str]
    """The variables that it uses."""
    compiled: Template

    def render(self, **values: str | list[str]) -> str:
        """The prompt with `values` inserted as they are. Raises StageError naming the file if rendering fails."""
        try:
            return self.compiled.render(values)
        except TemplateError as error:
            raise StageError(f"{self.path}: cannot render: {error}") from error


def load_template(path: Path, variables: set[str]) -> PromptTemplate:
    """Compile the template at `path`, which may use `variables` and nothing else.

    Raises StageError naming the file if it is missing, malformed, or uses another variable.
    """
    try:
        source = path.read_text(encoding="utf-8")
        used = meta.find_undeclared_variables(_ENVIRONMENT.parse(source))
        compiled = _ENVIRONMENT.from_string(source)
    except (OSError, UnicodeDecodeError) as error:
        raise StageError(f"{path}: cannot read the prompt template: {error}") from error
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise StageError(f"{path}: line {line}: not a valid Jinja2 template: {error}") from error
    if unknown := sorted(used - variables):
        raise StageError(f"{path}: unknown variable {unknown[0]!r}; this template sees {sorted(variables)}")
    return PromptTemplate(path, digest(source), frozenset(used), compiled)


def conversation(messages: Sequence[Message]) -> str:
    """A conversation as readable text: a single user turn is just its text, several turns are named."""
    if [message["role"] for message in messages] == ["user"]:
        return messages[0]["content"]
    return "\n\n".join(f"{_NAMES[message['role']]}: {message['content']}" for message in messages)
