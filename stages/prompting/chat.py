"""Conversations to token ids and back, by the model's own chat template, with messages as mere data.

The template is rendered once per sequence of roles, with a placeholder for each message. Its own control tokens
become ids directly; everything between two of them is tokenised by a copy of the tokenizer that knows no control
tokens. So a message that spells `<|end|>` gives the characters of `<|end|>`, and ordinary text gives exactly the ids
that the template would give it as a whole. The template cannot react to what a message says. One thing that an answer
says becomes tokens of the tokenizer's own: the marks around the one thought that it may begin with.
"""

import functools
import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from stages.algorithms.thoughts import MARKS, Thought, leading_thought, thoughts_end
from stages.config.chat import AS_IT_IS, TemplateSettings
from stages.contracts.errors import StageError
from stages.contracts.files import load_json
from stages.contracts.ids import Message
from stages.prompting.chat_template import ChatTemplate, Slot

_Piece = int | str | Slot
_Run = list[tuple[str, str]]
"""Text between two control tokens, as fragments `(kind, text)`: of the `template`, or `input`."""
_MARKS = {mark for pair in MARKS for mark in pair}
Segment = tuple[str, list[int]]
"""Kind and token ids of a part of a conversation."""


class ChatTokenizer:
    """The tokenizer and chat template of a Hugging Face model directory.

    Raises StageError if `tokenizer.json` or the chat template is missing, or if no token ends a turn.
    """

    def __init__(self, model_dir: Path, settings: TemplateSettings = AS_IT_IS):
        self.model_dir = model_dir
        spec = load_json(model_dir / "tokenizer.json", "a Hugging Face model directory with a fast tokenizer is needed")
        self._full = _tokenizer(_with_plain_marks(spec), model_dir)
        self.template = ChatTemplate(model_dir, settings)
        """The chat template by itself."""
        source = self.template.source
        controls = [t for t in spec["added_tokens"] if t["special"] or t["content"] in source or t["content"] in _MARKS]
        self._controls: dict[str, int] = {token["content"]: token["id"] for token in controls}
        self._split = _control_pattern(controls)
        self._text = _tokenizer(_for_text(spec, controls), model_dir)
        self._text.encode_special_tokens = True  # that is: spell them out
        self._check_controls_stay_text()
        self._marks = {t["content"]: t["id"] for t in spec["added_tokens"] if t["content"] in _MARKS}
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

    def encode_turns(self, messages: Sequence[Message], answer: Sequence[int] | None = None) -> list[Segment]:
        """Token ids of a conversation that ends in an assistant turn, as segments.

        Kinds: `template`, `input` (text of any turn but the last), `thought` (with which the last turn may begin),
        `answer` (the rest of its text), `stop` (the one token that ends it). What precedes thought and answer is
        exactly `encode(messages[:-1])`, as when generating. But where that leaves a thought open, an answer without one
        would become a part of it: it is preceded by what the template puts before such an answer in a history. With
        `answer`, the last turn's tokens are those: as sampled, with the token that ended them.
        """
        if not messages or messages[-1]["role"] != "assistant":
            raise StageError("a supervised example must end in an assistant turn")
        if answer is not None:
            thought = self.thought_length(answer)
            parts = [("thought", list(answer[:thought])), ("answer", list(answer[thought:]))]
            return [*self._segments(self._fill(messages[:-1], True)), *parts[thought == 0 :]]
        text = messages[-1]["content"]
        found, opening = leading_thought(text), self.template.opening
        if opening and (found is None or not opening.startswith(found.opening)):
            *before, slot = self._up_to_answer(tuple(message["role"] for message in messages))
            plan, parts = self._filled(before, messages), [("answer", self.encode_text(slot.cut(text)))]
        else:
            plan = self._fill(messages[:-1], True)
            parts = [("answer", self.encode_text(text))] if found is None else self._thought_and_answer(found)
        return [*self._segments(plan), *parts, ("stop", [self.end_id])]

    def encode_text(self, text: str) -> list[int]:
        """Token ids of plain text, without any control token."""
        return list(self._text.encode(text, add_special_tokens=False).ids)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Start and end, in characters, of each token of `encode_text(text)`."""
        return list(self._text.encode(text, add_special_tokens=False).offsets)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        return str(self._full.decode(list(token_ids), skip_special_tokens=True))

    def thought_length(self, token_ids: Sequence[int]) -> int:
        """How many of an answer's tokens are the thoughts that it begins with, as far as these are closed."""

        def ends(text: str) -> int:
            return sum(text.count(closing) for _, closing in MARKS)

        whole = self.decode(token_ids)
        closed = ends(whole[: thoughts_end(whole)])
        return bisect_left(range(len(token_ids) + 1), closed, key=lambda count: ends(self.decode(token_ids[:count])))

    def check_fits(self, rows: int) -> None:
        """StageError if a token has no row in a model's embedding of so many `rows`."""
        if self.vocabulary_size > rows:
            raise StageError(
                f"{self.model_dir}: the tokenizer has ids up to {self.vocabulary_size - 1}, but the model only {rows} "
                "embeddings: tokenizer and model do not belong together"
            )

    def _fill(self, messages: Sequence[Message], add_generation_prompt: bool) -> list[int | _Run]:
        return self._filled(
            self._pieces(tuple(message["role"] for message in messages), add_generation_prompt), messages
        )

    def _filled(self, pieces: Sequence[_Piece], messages: Sequence[Message]) -> list[int | _Run]:
        """Control ids, and the runs of text between them, with the messages in their slots."""
        plan: list[int | _Run] = []
        for piece in pieces:
            fragments: list[int | tuple[str, str]]
            if isinstance(piece, Slot):
                fragments = self._shown(messages[piece.place]["role"], piece.cut(messages[piece.place]["content"]))
            else:
                fragments = [piece if isinstance(piece, int) else ("template", piece)]
            for fragment in fragments:
                if isinstance(fragment, int):
                    plan.append(fragment)
                elif plan and isinstance(plan[-1], list):
                    plan[-1].append(fragment)
                else:
                    plan.append([fragment])
        return plan

    def _shown(self, role: str, text: str) -> list[int | tuple[str, str]]:
        """A turn that the conversation has behind it. Thoughts in it are what the template makes of them."""
        thought = leading_thought(text) if role == "assistant" else None
        if thought is None:
            return [("input", text)]
        if (answer := self.template.past_answer(thought)) is not None:
            return [("input", answer)]
        if not self._marks.keys() >= {thought.opening, thought.closing}:
            return [("input", text)]
        begin, end = self._marks[thought.opening], self._marks[thought.closing]
        return [begin, ("input", thought.body), end, ("input", thought.answer)]

    def _up_to_answer(self, roles: tuple[str, ...]) -> list[Any]:
        """The template's pieces for a whole conversation, up to the slot of its last turn."""
        pieces = self._pieces(roles, False)
        last = next(i for i, piece in enumerate(pieces) if isinstance(piece, Slot) and piece.place == len(roles) - 1)
        return pieces[: last + 1]

    def _thought_and_answer(self, thought: Thought) -> list[Segment]:
        """Segments of an answer that begins with a thought, which the generation prompt may have opened already."""
        opening = self.template.opening
        body = thought.body.lstrip("\n") if opening.endswith("\n") else thought.body
        if self._marks.keys() >= {thought.opening, thought.closing}:
            begin = [] if opening else [self._marks[thought.opening]]
            tokens = [*begin, *self.encode_text(body), self._marks[thought.closing]]
            return [("thought", tokens), ("answer", self.encode_text(thought.answer))]
        spelled = ("" if opening else thought.opening) + body + thought.closing
        whole = self._text.encode(spelled + thought.answer, add_special_tokens=False)
        count = sum(end <= len(spelled) for _, end in whole.offsets)
        return [("thought", list(whole.ids[:count])), ("answer", list(whole.ids[count:]))]

    def _segments(self, plan: Sequence[int | _Run]) -> list[Segment]:
        marked: list[tuple[str, int]] = []
        for item in plan:
            marked += [("template", item)] if isinstance(item, int) else self._mark(item)
        return [(kind, [token for _, token in group]) for kind, group in groupby(marked, key=lambda pair: pair[0])]

    def _mark(self, run: _Run) -> list[tuple[str, int]]:
        """Tokens of a run, each with the kind of the fragment in which it ends."""
        kinds = [kind for kind, text in run for _ in text]
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


def _with_plain_marks(spec: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer's specification that shows the marks of thoughts in text, special tokens or not."""
    tokens = [{**t, "special": t["special"] and t["content"] not in _MARKS} for t in spec.get("added_tokens", [])]
    return {**spec, "added_tokens": tokens}


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
