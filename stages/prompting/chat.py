"""Conversations to token ids and back, by the model's own chat template, with messages as mere data.

The template is rendered once per sequence of roles, with a placeholder for each message. Its own control tokens
become ids directly; everything between two of them is tokenised by a copy of the tokenizer that knows no control
tokens. So a message that spells `<|end|>` gives the characters of `<|end|>`, and ordinary text gives exactly the ids
that the template would give it as a whole. The template cannot react to what a message says.
"""

import functools
import json
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from stages.config.chat import AS_IT_IS, TemplateSettings
from stages.contracts.errors import StageError
from stages.contracts.files import load_json
from stages.contracts.ids import Message
from stages.prompting.chat_template import ChatTemplate, Slot

_Piece = int | str | Slot
_Run = list[tuple[bool, str]]
"""Text between two control tokens, as fragments `(is_message_text, text)`."""


class ChatTokenizer:
    """The tokenizer and chat template of a Hugging Face model directory.

    Raises StageError if `tokenizer.json` or the chat template is missing, or if no token ends a turn.
    """

    def __init__(self, model_dir: Path, settings: TemplateSettings = AS_IT_IS):
        self.model_dir = model_dir
        spec = load_json(model_dir / "tokenizer.json", "a Hugging Face model directory with a fast tokenizer is needed")
        self._full = _tokenizer(spec, model_dir)
        self.template = ChatTemplate(model_dir, settings)
        """The chat template by itself."""
        controls = [t for t in spec["added_tokens"] if t["special"] or t["content"] in self.template.source]
        self._controls: dict[str, int] = {token["content"]: token["id"] for token in controls}
        self._split = _control_pattern(controls)
        self._text = _tokenizer(_for_text(spec, controls), model_dir)
        self._text.encode_special_tokens = True  # that is: spell them out
        self._check_controls_stay_text()
        self._pieces = functools.cache(self._render)
        eos = self._full.token_to_id(self.template.names.get("eos_token", ""))
        self.end_id = self._turn_end(eos)
        """Token that ends an assistant turn in this chat template."""
        self.vocabulary_size: int = 1 + max(self._full.get_vocab(with_added_tokens=True).values())
        """One more than the highest token id."""
        ends = [eos, self.end_id, *declared_ends(model_dir)]
        self.stop_ids: frozenset[int] = frozenset(token for token in ends if token is not None)
        """Tokens at which generation stops: the template's, the tokenizer's and the generation config's."""

    def encode(self, messages: Sequence[Message], add_generation_prompt: bool = True) -> list[int]:
        """Token ids of a conversation under the chat template."""
        return self.encode_batch([messages], add_generation_prompt)[0]

    def encode_batch(
        self, conversations: Sequence[Sequence[Message]], add_generation_prompt: bool = True
    ) -> list[list[int]]:
        """Token ids of each conversation; much faster than one by one."""
        plans = [self._fill(messages, add_generation_prompt) for messages in conversations]
        texts = ["".join(text for _, text in run) for plan in plans for run in plan if isinstance(run, list)]
        encoded = iter(self._text.encode_batch(texts, add_special_tokens=False))
        return [
            [token for item in plan for token in ([item] if isinstance(item, int) else next(encoded).ids)]
            for plan in plans
        ]

    def encode_turns(
        self, messages: Sequence[Message], answer: Sequence[int] | None = None
    ) -> list[tuple[str, list[int]]]:
        """Token ids of a conversation that ends in an assistant turn, as segments `(kind, token_ids)`.

        Kinds: `template`, `input` (text of any turn but the last), `answer` (text of the last turn), `stop` (the one
        token that ends it). What precedes the answer is exactly `encode(messages[:-1])`, as when generating. With
        `answer`, the last turn's tokens are those: as sampled, with the token that ended them.
        """
        if not messages or messages[-1]["role"] != "assistant":
            raise StageError("a supervised example must end in an assistant turn")
        marked: list[tuple[str, int]] = []
        for item in self._fill(messages[:-1], True):
            marked += [("template", item)] if isinstance(item, int) else self._mark(item)
        segments = [(kind, [token for _, token in group]) for kind, group in groupby(marked, key=lambda pair: pair[0])]
        if answer is not None:
            return [*segments, ("answer", list(answer))]
        return [*segments, ("answer", self.encode_text(messages[-1]["content"])), ("stop", [self.end_id])]

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text, without any control token."""
        return list(self._text.encode(text, add_special_tokens=False).ids)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Start and end, in characters, of each token of `encode_text(text)`."""
        return list(self._text.encode(text, add_special_tokens=False).offsets)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self._full.decode(list(token_ids), skip_special_tokens=True))

    def check_fits(self, rows: int) -> None:
        """StageError if a token has no row in a model's embedding of so many `rows`."""
        if self.vocabulary_size > rows:
            raise StageError(
                f"{self.model_dir}: the tokenizer has ids up to {self.vocabulary_size - 1}, but the model only {rows} "
                "embeddings: tokenizer and model do not belong together"
            )

    def _fill(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[int | _Run]:
        plan: list[int | _Run] = []
        for piece in self._pieces(tuple(message["role"] for message in messages), add_generation_prompt):
            if isinstance(piece, int):
                plan.append(piece)
                continue
            fragment = (False, piece) if isinstance(piece, str) else (True, piece.cut(messages[piece.place]["content"]))
            if plan and isinstance(plan[-1], list):
                plan[-1].append(fragment)
            else:
                plan.append([fragment])
        return plan

    def _mark(self, run: _Run) -> list[tuple[str, int]]:
        """Tokens of a run, each with the kind of the fragment in which it ends."""
        kinds = [kind for is_message, text in run for kind in ["input" if is_message else "template"] * len(text)]
        encoding = self._text.encode("".join(text for _, text in run), add_special_tokens=False)
        return [
            (kinds[max(start, end - 1)], token)
            for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True)
        ]

    def _render(self, roles: tuple[str, ...], add_generation_prompt: bool) -> list[_Piece]:
        """The template for a sequence of roles: control ids, template text, and one slot per message."""
        return [
            part
            for piece in self.template.render(roles, add_generation_prompt)
            for part in ([piece] if isinstance(piece, Slot) else self._split_controls(piece))
        ]

    def _split_controls(self, text: str) -> list[int | str]:
        parts = self._split.split(text) if self._controls else [text]
        return [self._controls[part.strip()] if odd % 2 else part for odd, part in enumerate(parts) if part]

    def _turn_end(self, eos: int | None) -> int:
        pieces = self._pieces(("user", "assistant"), False)
        answer = max(number for number, piece in enumerate(pieces) if isinstance(piece, Slot))
        end = next((piece for piece in pieces[answer:] if isinstance(piece, int)), eos)
        if end is None:
            raise StageError(
                f"{self.model_dir}: neither the chat template nor the tokenizer has a token that ends a turn"
            )
        return end

    def _check_controls_stay_text(self) -> None:
        for text, token in self._controls.items():
            if token in self.encode_text(text):
                raise StageError(f"{self.model_dir}: tokenizer cannot tell the text {text!r} from its control token")


def _control_pattern(controls: list[dict[str, Any]]) -> re.Pattern[str]:
    """Matches one control token, the longest first, with the whitespace that the token itself swallows."""
    longest_first = sorted(controls, key=lambda token: -len(token["content"]))
    words = [
        (r"\s*" if token["lstrip"] else "") + re.escape(token["content"]) + (r"\s*" if token["rstrip"] else "")
        for token in longest_first
    ]
    return re.compile(f"({'|'.join(words)})")


def _for_text(spec: dict[str, Any], controls: list[dict[str, Any]]) -> dict[str, Any]:
    """A tokenizer's specification for text that always follows a control token, and holds none (all are `special`)."""
    text = {**spec, "added_tokens": [{**t, "special": t in controls} for t in spec["added_tokens"]]}
    if (text["pre_tokenizer"] or {}).get("prepend_scheme") == "first":
        text["pre_tokenizer"] = {**text["pre_tokenizer"], "prepend_scheme": "never"}
    return text


def _tokenizer(spec: dict[str, Any], model_dir: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(json.dumps(spec))
    except Exception as error:  # the library raises nothing more precise
        raise StageError(f"{model_dir / 'tokenizer.json'}: not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def declared_ends(model_dir: Path) -> list[int]:
    """The ids at which `generation_config.json` says that generation ends, in its order; none where it says nothing."""
    path = model_dir / "generation_config.json"
    declared = load_json(path, "").get("eos_token_id") if path.is_file() else None
    if declared is None:
        return []
    return declared if isinstance(declared, list) else [declared]
