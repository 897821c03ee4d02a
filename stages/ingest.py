"""Ingest: chat data of any supported form becomes one table of prompts.

Reads:  chat files (`sources`), in the forms of `stages.sources.chat_records`; the chat template of the model
        that will answer.
Does:   takes each conversation up to its last user turn as a prompt and the assistant turn after it as the answer,
        with the checkable instructions that the record carries; does what `chat.system_turns` says with turns that
        the template refuses; keeps the first of prompts that differ in nothing but
        case, white space and the like, splits into train and validation by hash of the prompt.
Writes: the prompts, and a ledger with one reason for each row that yielded none (`unusable`, `duplicate`, `overlong`,
        `template`),
        and for each whose prompt goes without the `checks` that it came with.
"""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import Field

from stages.config import IngestSection, TurnSettings
from stages.contracts import artifacts
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.ids import near_key, prompt_id, split_position
from stages.contracts.provenance import describe
from stages.contracts.schema import frame
from stages.prompting.chat_template import ChatTemplate
from stages.prompting.system_turns import ANY_TURNS, TurnRules
from stages.sources.chat_records import FIELDS, Conversation, parse
from stages.sources.files import Unusable, check_sources, check_unusable, read_rows
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
    rows: Iterable[tuple[str, int, Conversation | Unusable]],
    validation_fraction: float,
    max_characters: int | None,
    rules: TurnRules = ANY_TURNS,
) -> tuple[list[Row], list[Row]]:
    """Rows of PROMPTS and of INGEST_LEDGER from `(source, row, conversation)`; each row lands in exactly one, or in
    both where its checks alone cannot be used.

    Of near twins the first is kept, whatever their answers and checks. `max_characters` bounds the text of all turns
    of a prompt together. What the model's template refuses is for the `rules`; a prompt's key is that of the turns as
    they are used.
    """
    prompts: dict[str, Row] = {}
    ledger: list[Row] = []
    for source, row, found in rows:
        origin = {"source": source, "row": row}
        refusal = None
        if isinstance(found, Conversation):
            messages, refusal = rules.admit(found.messages, f"{source}: row {row}")
            found = replace(found, messages=messages)
        if drop := _drop(found, refusal, prompts, max_characters):
            ledger.append({**origin, "reason": drop[0], "detail": drop[1]})
            continue
        assert isinstance(found, Conversation)
        if found.problem:
            ledger.append({**origin, "reason": "checks", "detail": found.problem})
        checks = json.dumps(found.checks, ensure_ascii=False) if found.checks else None
        content = {
            "messages": found.messages, "answer": found.answer, "checks": checks, "sampling_hint": found.hint
        }  # fmt: skip
        key = prompt_id(found.messages)
        split = split_of(key, validation_fraction)
        prompts[near_key(found.messages)] = {"prompt_id": key, **content, "split": split, **origin}
    return list(prompts.values()), ledger


def _drop(
    found: Conversation | Unusable, refusal: str | None, prompts: dict[str, Row], limit: int | None
) -> tuple[str, str] | None:
    """Why a row yields no prompt beside those that earlier rows did, by near key: reason and detail."""
    if isinstance(found, Unusable):
        return "unusable", found.detail
    if limit is not None and found.characters > limit:
        return "overlong", f"{found.characters} characters, limit {limit}"
    if refusal is not None:
        return "template", refusal
    if twin := prompts.get(near_key(found.messages)):
        return "duplicate", f"repeats prompt {twin['prompt_id']} of {twin['source']}, row {twin['row']}"
    return None


def split_of(prompt: str, validation_fraction: float) -> str:
    """`train` or `validation`, by hash of the prompt id alone.

    A prompt's side depends on no seed and no other prompt, and a larger fraction only moves prompts to validation.
    """
    position = split_position(prompt)
    return "validation" if position < validation_fraction else "train"


def main(args: Args) -> None:
    check_sources(args.sources, "ingest.sources")
    rows = (row for path in args.sources for row in read_rows(path, parse, FIELDS, "conversations", args.strict))
    template = ChatTemplate(args.model, args.chat) if args.model else None
    rules = TurnRules(template, args.chat.system_turns)
    prompts, ledger = ingest(rows, args.validation_fraction, args.max_prompt_characters, rules)
    reasons = Counter(row["reason"] for row in ledger)
    total = len(prompts) + len(ledger) - reasons["checks"]
    unusable = [(row["source"], row["row"], row["detail"]) for row in ledger if row["reason"] == "unusable"]
    check_unusable(unusable, total, args.max_bad_rows, "ingest.max_bad_rows")
    if not prompts:
        raise StageError(
            f"{args.sources[0]}: no prompt is left of {total} rows: {reasons['unusable']} cannot be used, "
            f"{reasons['overlong']} have more than {args.max_prompt_characters} characters (raise "
            f"ingest.max_prompt_characters), and {reasons['template']} turns that the chat template refuses "
            "(chat.system_turns: merge)"
        )
    origin = describe("ingest", args, args.sources, seed=args.seed)
    artifacts.write(frame(PROMPTS, prompts), args.prompts, PROMPTS, origin)
    artifacts.write(frame(INGEST_LEDGER, ledger), args.ledger, INGEST_LEDGER, origin)
    splits = Counter(row["split"] for row in prompts)
    checked = sum(row["checks"] is not None for row in prompts)
    print(
        f"ingest: {total} rows -> {splits['train']} train and {splits['validation']} validation "
        f"prompts ({checked} with checks); dropped {reasons['duplicate']} duplicate, {reasons['overlong']} overlong, "
        f"{reasons['unusable']} unusable, {reasons['template']} that the chat template refuses; {reasons['checks']} go "
        "without their checks",
        file=sys.stderr,
    )


if __name__ == "__main__":
    run(Args, main)
