"""Ingest: chat data of any supported form becomes one table of prompts.

Reads:  chat files (`sources`): `.jsonl`, `.jsonl.gz` or `.parquet`, in the forms of `stages.sources.chat_records`; the
        chat template of the model that will answer.
Does:   takes each conversation up to its last user turn as a prompt and the assistant turn after it as the answer,
        with the checkable instructions that the record carries; does what
        `chat.system_turns` says with turns that the template refuses; keeps the first of equal prompts, splits into
        train and validation by hash of the prompt.
Writes: the prompts, and a ledger with one reason for each row that yielded none (`duplicate`, `overlong`, `template`).
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from stages.config import IngestSection, TurnSettings
from stages.contracts import artifacts
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.ids import prompt_id, split_position
from stages.contracts.provenance import describe
from stages.contracts.schema import frame
from stages.prompting.chat_template import ChatTemplate
from stages.prompting.system_turns import ANY_TURNS, TurnRules
from stages.sources.chat_records import FIELDS, Conversation, parse
from stages.sources.files import check_sources, read_rows
from stages.tables import INGEST_LEDGER, PROMPTS

Row = dict[str, Any]


class Args(IngestSection):
    """Command line of the stage."""

    chat: TurnSettings = Field(TurnSettings(), description="How conversations are rendered.")
    model: Path | None = Field(
        None, description="Hugging Face directory whose chat template must render the turns; unset: any turns will do."
    )
    seed: int = Field(0, ge=0, description="Run seed; recorded only: the split never depends on it.")
    prompts: Path = Field(description="Output: the prompts (Parquet).")
    ledger: Path = Field(description="Output: the rows that yielded no prompt (Parquet).")


def ingest(
    rows: Iterable[tuple[str, int, Conversation]],
    validation_fraction: float,
    max_characters: int | None,
    rules: TurnRules = ANY_TURNS,
) -> tuple[list[Row], list[Row]]:
    """Rows of PROMPTS and of INGEST_LEDGER from `(source, row, conversation)`; each row lands in exactly one.

    Of equal prompts the first is kept, whatever their answers and checks. `max_characters` bounds the text of all turns
    of a prompt together. What the model's template refuses is for the `rules`; a prompt's key is that of the turns as
    they are used.
    """
    prompts: dict[str, Row] = {}
    ledger: list[Row] = []
    for source, row, conversation in rows:
        origin = {"source": source, "row": row}
        messages, refusal = rules.admit(conversation.messages, f"{source}: row {row}")
        key = prompt_id(messages)
        if max_characters is not None and conversation.characters > max_characters:
            detail = f"{conversation.characters} characters, limit {max_characters}"
            ledger.append({**origin, "reason": "overlong", "detail": detail})
        elif refusal is not None:
            ledger.append({**origin, "reason": "template", "detail": refusal})
        elif key in prompts:
            detail = f"repeats prompt {key} of {prompts[key]['source']}, row {prompts[key]['row']}"
            ledger.append({**origin, "reason": "duplicate", "detail": detail})
        else:
            checks = json.dumps(conversation.checks, ensure_ascii=False) if conversation.checks else None
            content = {"messages": messages, "answer": conversation.answer, "checks": checks}
            prompts[key] = {"prompt_id": key, **content, "split": split_of(key, validation_fraction), **origin}
    return list(prompts.values()), ledger


def split_of(prompt: str, validation_fraction: float) -> str:
    """`train` or `validation`, by hash of the prompt id alone.

    A prompt's side depends on no seed and no other prompt, and a larger fraction only moves prompts to validation.
    """
    position = split_position(prompt)
    return "validation" if position < validation_fraction else "train"


def conversations(path: Path) -> Iterator[tuple[str, int, Conversation]]:
    """`(source, row, conversation)` of each row of a chat file; raises like `read_rows`."""
    return read_rows(path, parse, FIELDS, "conversations")


def main(args: Args) -> None:
    check_sources(args.sources, "ingest.sources")
    rows = (row for path in args.sources for row in conversations(path))
    template = ChatTemplate(args.model, args.chat) if args.model else None
    rules = TurnRules(template, args.chat.system_turns)
    prompts, ledger = ingest(rows, args.validation_fraction, args.max_prompt_characters, rules)
    if not prompts:
        raise StageError(
            f"{args.sources[0]}: no prompt is left: each of the {len(ledger)} rows has more than "
            f"{args.max_prompt_characters} characters (raise ingest.max_prompt_characters), or turns that the chat "
            "template refuses (chat.system_turns: merge)"
        )
    origin = describe("ingest", args, args.sources, seed=args.seed)
    artifacts.write(frame(PROMPTS, prompts), args.prompts, PROMPTS, origin)
    artifacts.write(frame(INGEST_LEDGER, ledger), args.ledger, INGEST_LEDGER, origin)
    splits = Counter(row["split"] for row in prompts)
    checked = sum(row["checks"] is not None for row in prompts)
    reasons = Counter(row["reason"] for row in ledger)
    print(
        f"ingest: {len(prompts) + len(ledger)} rows -> {splits['train']} train and {splits['validation']} validation "
        f"prompts ({checked} with checks); dropped {reasons['duplicate']} duplicate, {reasons['overlong']} overlong, "
        f"{reasons['template']} that the chat template refuses",
        file=sys.stderr,
    )


if __name__ == "__main__":
    run(Args, main)
