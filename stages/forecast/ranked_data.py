"""How many ranked answers EFT, the tests of its judge, and IFT get of the sources."""

from collections.abc import Iterator
from typing import Any

from stages.config import EftSection
from stages.contracts.ids import near_key, prompt_id, split_position
from stages.sources import openassistant, ranked_records
from stages.sources.chat_records import FIELDS
from stages.sources.files import read_rows
from stages.sources.ranked_records import RankedPrompt

COLUMNS = (*FIELDS, *ranked_records.FIELDS, "message_tree_id", "tree_state")


def uses(eft: EftSection) -> dict[str, int]:
    """Answers for `eft` and for its `test`, examples for `ift`: prompts split by hash, as `ranked` does. Those whose
    answers all have one rank count, though `ranked` leaves them out. StageError for a file that cannot be read."""
    counts = {"eft": 0, "test": 0, "ift": 0}
    for prompt in _distinct(eft):
        position, answers = split_position(prompt_id(prompt.messages)), len(prompt.answers)
        if answers > 1 and position < eft.test_fraction:
            counts["test"] += answers
        elif answers > 1 and position >= eft.test_fraction + eft.ift_fraction:
            counts["eft"] += answers
        elif eft.ift_fraction:
            counts["ift"] += 1
    return counts


def _distinct(eft: EftSection) -> Iterator[RankedPrompt]:
    """Usable prompts, of near twins the first."""
    seen = set()
    for path in eft.sources:
        for _, _, parsed in read_rows(path, lambda record: _parsed(record, eft.language), COLUMNS, "rows"):
            prompt = ranked_records.clean(parsed, eft.max_characters) if isinstance(parsed, RankedPrompt) else None
            if prompt and prompt.answers and (near := near_key(prompt.messages)) not in seen:
                seen.add(near)
                yield prompt


def _parsed(record: Any, language: str) -> Any:
    is_tree = openassistant.is_tree(record)
    return openassistant.parse(record, language) if is_tree else ranked_records.parse(record)
