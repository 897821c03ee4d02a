"""Ranked: answers that people ranked, to teach judging (EFT), to test the judge, and to teach answering (IFT).

Reads:  ranked answers (`sources`), in the forms of `sources.ranked_records` or as trees of OpenAssistant; the chat
        template of the model that IFT trains.
Does:   drops answers that cannot be used, keeps the first of equal prompts, and splits by hash of the prompt: for the
        test of the judge, for IFT (its best answer alone), the rest for EFT. No prompt serves two of them. Where the
        template refuses the turns of a prompt for IFT, does what `chat.system_turns` says; for EFT and the test the
        judge is shown them as text.
Writes: the prompts (EFT: `train`, test: `validation`), the answers for EFT in shards, the judge tests, the IFT
        examples, and a ledger with the reason for each row that is not used, or not in full.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from stages.config import RankedSettings, TurnSettings
from stages.contracts.artifacts import write
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.ids import candidate_id, near_key, prompt_id, shard_of, split_position
from stages.contracts.provenance import describe
from stages.contracts.schema import Table, frame
from stages.prompting.chat_template import ChatTemplate
from stages.prompting.system_turns import ANY_TURNS, TurnRules
from stages.sources import openassistant
from stages.sources import ranked_records as ranking
from stages.sources.chat_records import FIELDS
from stages.sources.files import Unusable, check_sources, check_unusable, read_rows
from stages.sources.ranked_records import Answer, Drop, RankedPrompt
from stages.tables import JUDGE_TESTS, PROMPTS, RANKED, RANKED_LEDGER, SFT_EXAMPLES

Row = dict[str, Any]
Use = Literal["eft", "test", "ift"]


class Args(RankedSettings):
    """Command line of the stage."""

    chat: TurnSettings = Field(TurnSettings(), description="How conversations are rendered.")
    model: Path | None = Field(
        None, description="Hugging Face directory whose chat template must render the turns of IFT; unset: any will do."
    )
    prompts: Path = Field(description="Output: the prompts of EFT (`train`) and of the test (`validation`) (Parquet).")
    answers: list[Path] = Field(min_length=1, description="Output: the answers for EFT, a Parquet file per shard.")
    tests: Path = Field(description="Output: the test set of the judge (Parquet).")
    ift: Path = Field(description="Output: the examples of IFT (Parquet).")
    ledger: Path = Field(description="Output: the rows that are not used, or not in full (Parquet).")


@dataclass
class Outputs:
    """Rows of PROMPTS, RANKED, JUDGE_TESTS, SFT_EXAMPLES and RANKED_LEDGER."""

    prompts: list[Row] = field(default_factory=list)
    answers: list[Row] = field(default_factory=list)
    tests: list[Row] = field(default_factory=list)
    ift: list[Row] = field(default_factory=list)
    ledger: list[Row] = field(default_factory=list)


def collect(
    rows: Iterable[tuple[str, int, RankedPrompt | Drop | Unusable]],
    test_fraction: float,
    ift_fraction: float,
    max_characters: int | None = None,
    rules: TurnRules = ANY_TURNS,
) -> Outputs:
    """All output rows from `(source, row, parsed)`; of equal prompts the first usable one counts.

    Each input row lends its prompt to exactly one use, or has a ledger row that says why it has none. What the template
    refuses of IFT is for the `rules`.
    """
    outputs = Outputs()
    used: dict[str, str] = {}
    for source, row, parsed in rows:
        if not isinstance(parsed, RankedPrompt):
            drop = parsed if isinstance(parsed, Drop) else Drop("unusable", parsed.detail)
            outputs.ledger += _ledger(source, row, [drop])
            continue
        prompt = ranking.clean(parsed, max_characters)
        near = near_key(prompt.messages)
        use = _use(prompt, used, test_fraction, ift_fraction)
        if use == "ift":
            messages, refusal = rules.admit(prompt.messages, f"{source}: row {row}")
            prompt = replace(prompt, messages=messages)
            use = Drop("template", refusal) if refusal else use
        if isinstance(use, Drop):
            unused = [use]
        else:
            unused = _add(outputs, prompt, use, {"source": source, "row": row})
            used[near] = f"{source}, row {row}"
        outputs.ledger += _ledger(source, row, [*prompt.dropped, *unused])
    return outputs


def use_of(prompt: str, test_fraction: float, ift_fraction: float) -> Use:
    """What a prompt id is for, by its hash alone: no seed and no other prompt can move it.

    The hash is that of `ingest.split_of`: a prompt in both data sets is held out by both, given equal fractions.
    """
    position = split_position(prompt)
    if position < test_fraction:
        return "test"
    return "ift" if position < test_fraction + ift_fraction else "eft"


def _use(prompt: RankedPrompt, used: dict[str, str], test_fraction: float, ift_fraction: float) -> Use | Drop:
    """What a cleaned prompt is used for, or why it is not."""
    key = prompt_id(prompt.messages)
    use = use_of(key, test_fraction, ift_fraction)
    if not prompt.answers:
        return Drop("no_answers", "no usable answer is left")
    if earlier := used.get(near_key(prompt.messages)):
        return Drop("duplicate", f"repeats prompt {key} of {earlier}")
    if len(prompt.answers) == 1:
        if ift_fraction == 0:
            return Drop("one_answer", "a single answer has no order to learn from, and there is no IFT")
        use = "ift"
    if use == "ift" and _best(prompt).rank != prompt.best:
        return Drop("no_best", "the answer that people ranked best cannot be used")
    if use != "ift" and max(prompt.ranks) == 0:
        return Drop("all_tied", f"all {len(prompt.answers)} answers have the same rank")
    return use


def _add(outputs: Outputs, prompt: RankedPrompt, use: Use, origin: Row) -> list[Drop]:
    """Add the rows of a prompt; returns what of it stays unused."""
    key, best = prompt_id(prompt.messages), _best(prompt)
    if use == "ift":
        messages = [*prompt.messages, {"role": "assistant", "content": best.text}]
        outputs.ift.append({"example_id": f"ift-{key}", "messages": messages, "prompt_loss_weight": 0.0})
        return [
            Drop("not_best", f"{answer.field}: IFT takes the best answer alone")
            for answer in prompt.answers
            if answer is not best
        ]
    split = "validation" if use == "test" else "train"
    outputs.prompts.append({"prompt_id": key, "messages": prompt.messages, "split": split, **origin})
    for number, (answer, rank) in enumerate(zip(prompt.answers, prompt.ranks, strict=True)):
        keys = {"prompt_id": key, "candidate_id": candidate_id(key, 0, number)}
        content = {"text": answer.text, "rank": rank, "quality": answer.quality}
        if use == "test":
            outputs.tests.append({**keys, "messages": prompt.messages, **content})
        else:
            outputs.answers.append({**keys, "finish_reason": "stop", **content})
    return []


def _best(prompt: RankedPrompt) -> Answer:
    """The best of the answers that are left; the first one, where several are."""
    return min(prompt.answers, key=lambda answer: answer.rank)


def _ledger(source: str, row: int, drops: list[Drop]) -> list[Row]:
    """One row per reason, with the details of all its answers."""
    details: dict[str, list[str]] = {}
    for drop in drops:
        details.setdefault(drop.reason, []).append(drop.detail)
    return [
        {"source": source, "row": row, "reason": reason, "detail": "; ".join(texts)}
        for reason, texts in details.items()
    ]


def parsed_rows(path: Path, language: str, strict: bool) -> Iterator[tuple[str, int, RankedPrompt | Drop | Unusable]]:
    """`(source, row, parsed)` of each row of a file; raises like `read_rows`."""

    def parse(record: object) -> RankedPrompt | Drop:
        return openassistant.parse(record, language) if openassistant.is_tree(record) else ranking.parse(record)

    columns = (*FIELDS, *ranking.FIELDS, "message_tree_id", "tree_state")
    return read_rows(path, parse, columns, "rows", strict)


def check(outputs: Outputs, args: Args) -> None:
    """The gate: StageError where a use that the settings ask for got no prompts."""
    wanted = {
        "eft": (outputs.answers, 1 - args.test_fraction - args.ift_fraction),
        "test": (outputs.tests, args.test_fraction),
        "ift": (outputs.ift, args.ift_fraction),
    }
    for use, (rows, fraction) in wanted.items():
        if not rows and (fraction > 0 or use == "eft"):
            raise StageError(
                f"{args.sources[0]}: no prompt is left for {use} (fraction {fraction:g}); {_summary(outputs)}. Give "
                "more ranked prompts, or change eft.test_fraction and eft.ift_fraction"
            )


def _summary(outputs: Outputs) -> str:
    splits = Counter(row["split"] for row in outputs.prompts)
    reasons = Counter(row["reason"] for row in outputs.ledger)
    return (
        f"{splits['train']} prompts with {len(outputs.answers)} answers for EFT, {splits['validation']} with "
        f"{len(outputs.tests)} to test the judge, {len(outputs.ift)} for IFT; dropped in rows: "
        + (", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items())) or "nothing")
    )


def main(args: Args) -> None:
    """Read, split, check, write all tables."""
    check_sources(args.sources, "eft.sources")
    parsed = [row for path in args.sources for row in parsed_rows(path, args.language, args.strict)]
    unusable = [(source, row, found.detail) for source, row, found in parsed if isinstance(found, Unusable)]
    check_unusable(unusable, len(parsed), args.max_bad_rows, "eft.max_bad_rows")
    template = ChatTemplate(args.model, args.chat) if args.model else None
    rules = TurnRules(template, args.chat.system_turns)
    outputs = collect(parsed, args.test_fraction, args.ift_fraction, args.max_characters, rules)
    check(outputs, args)
    shards: list[list[Row]] = [[] for _ in args.answers]
    for row in outputs.answers:
        shards[shard_of(row["prompt_id"], len(shards))].append(row)
    origin = describe("ranked", args, args.sources)
    parts: list[tuple[list[Row], Path, Table]] = [
        (outputs.prompts, args.prompts, PROMPTS),
        (outputs.tests, args.tests, JUDGE_TESTS),
        (outputs.ift, args.ift, SFT_EXAMPLES),
        (outputs.ledger, args.ledger, RANKED_LEDGER),
    ]
    parts += [(shard, path, RANKED) for shard, path in zip(shards, args.answers, strict=True)]
    for part, path, table in parts:
        write(frame(table, part), path, table, origin)
    print(f"ranked: {_summary(outputs)}", file=sys.stderr)


if __name__ == "__main__":
    run(Args, main)
