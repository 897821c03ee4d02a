"""The layouts of other trainers: what a pair, or a supervised example, becomes there. Pure functions, row to row.

A pair is a row of table `pairs`, an example one of `sft_examples` with its `prompt_id`. Where each layout was learnt:
docs/exporting.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from stages.contracts.ids import Message

Row = dict[str, Any]
TEXT, NUMBER = pa.string(), pa.float64()
TURNS = pa.list_(pa.struct([("role", TEXT), ("content", TEXT)]))
SHAREGPT_TURN = pa.struct([("from", TEXT), ("value", TEXT)])
SHAREGPT_ROLES = {"system": "system", "user": "human", "assistant": "gpt"}


def trl_pair(pair: Row) -> Row:
    """TRL's conversational preference with an explicit prompt."""
    return {name: pair[name] for name in ("pair_id", "prompt", "chosen", "rejected")}


def trl_example(example: Row) -> Row:
    """TRL's conversational prompt and completion: `SFTTrainer` then puts the loss on the completion alone."""
    turns = example["messages"]
    return {"example_id": example["example_id"], "prompt": turns[:-1], "completion": turns[-1:]}


def h4_pair(pair: Row) -> Row:
    """A row of Hugging Face H4's binarized preferences; `messages` is the chosen conversation, as there."""
    both = conversations(pair)
    scores = {name: pair[name] for name in ("score_chosen", "score_rejected")}
    return {**_asked(pair["prompt"], pair["prompt_id"]), **both, "messages": both["chosen"], **scores}


def h4_example(example: Row) -> Row:
    """A row of Hugging Face H4's chats."""
    turns = example["messages"]
    return {**_asked(turns[:-1], example["prompt_id"]), **messages(example)}


def nemo_rl_pair(pair: Row) -> Row:
    """NeMo-RL's ranked completions of a context; the lower rank is preferred."""
    completions = [{"rank": rank, "completion": pair[side]} for rank, side in enumerate(("chosen", "rejected"))]
    return {"pair_id": pair["pair_id"], "context": pair["prompt"], "completions": completions}


def llama_factory_pair(pair: Row) -> Row:
    """LLaMA-Factory's preference in the ShareGPT form: the turns so far, and one turn on each side."""
    sides = {side: _sharegpt(pair[side])[0] for side in ("chosen", "rejected")}
    return {"pair_id": pair["pair_id"], "conversations": _sharegpt(pair["prompt"]), **sides}


def llama_factory_example(example: Row) -> Row:
    """LLaMA-Factory's chat in the ShareGPT form."""
    return {"example_id": example["example_id"], "conversations": _sharegpt(example["messages"])}


def conversations(pair: Row) -> Row:
    """Both conversations in full, as OpenRLHF and open-instruct take them; all turns but the last are the prompt."""
    sides = {side: [*pair["prompt"], *pair[side]] for side in ("chosen", "rejected")}
    return {"pair_id": pair["pair_id"], **sides}


def messages(example: Row) -> Row:
    """The conversation in full, as most trainers take it."""
    return {name: example[name] for name in ("example_id", "messages")}


def any_turns(turns: Sequence[Message]) -> str | None:
    """Layouts that hold any conversation."""
    return None


def alternating(turns: Sequence[Message]) -> str | None:
    """Why turns do not follow each other as LLaMA-Factory has it; it would pass over such rows with a mere warning."""
    roles = [turn["role"] for turn in turns]
    rest = roles[1:] if roles[0] == "system" else roles
    regular = all(role == ("user", "assistant")[number % 2] for number, role in enumerate(rest))
    return None if regular else f"turns must alternate after a first system turn, and are {', '.join(roles)}"


def pair_refusal(pair: Row, holds: Callable[[Sequence[Message]], str | None]) -> str | None:
    """Why a layout cannot hold a pair, if so."""
    if not pair["prompt"] or pair["prompt"][-1]["role"] != "user":
        return "the prompt does not end in a user turn"
    if any([turn["role"] for turn in pair[side]] != ["assistant"] for side in ("chosen", "rejected")):
        return "a member is not one assistant turn"
    return holds(pair["prompt"])


def example_refusal(example: Row, holds: Callable[[Sequence[Message]], str | None]) -> str | None:
    """Why a layout cannot hold a supervised example, if so."""
    roles = [turn["role"] for turn in example["messages"]]
    if roles[-2:] != ["user", "assistant"]:
        return "the conversation does not end in a user turn and its answer"
    if example["prompt_loss_weight"]:
        return f"no layout has a weight of the loss on the prompt ({example['prompt_loss_weight']:g})"
    return holds(example["messages"])


REFUSALS = {"pairs": ("pair_id", pair_refusal), "examples": ("example_id", example_refusal)}
"""What names a row, and why a layout cannot hold it."""


@dataclass(frozen=True)
class Form:
    """How rows of one kind are laid out, and the file that they go to."""

    row: Callable[[Row], Row]
    file: str
    """Relative to the folder, with `{split}` in the place of `train` or `test`. The suffix decides the format."""
    columns: dict[str, pa.DataType]
    """Their types where the file is Parquet."""


@dataclass(frozen=True)
class Layout:
    """What a trainer reads."""

    forms: dict[str, Form]
    """Of `pairs` and of `examples`."""
    holds: Callable[[Sequence[Message]], str | None] = any_turns
    test_share: float = 0.0
    """Share of the prompts that are for testing, unless another one is asked for."""
    index: bool = False
    """Whether LLaMA-Factory's `dataset_info.json` lies beside the data."""


def _asked(prompt: Sequence[Message], key: str) -> Row:
    return {"prompt": prompt[-1]["content"], "prompt_id": key}


def _sharegpt(turns: Sequence[Message]) -> list[Row]:
    return [{"from": SHAREGPT_ROLES[turn["role"]], "value": turn["content"]} for turn in turns]


PARQUET = "{split}.parquet"
ASKED = {"prompt": TEXT, "prompt_id": TEXT}
BOTH = {"pair_id": TEXT, "chosen": TURNS, "rejected": TURNS}
CHAT = {"example_id": TEXT, "messages": TURNS}
SHAREGPT = {"conversations": pa.list_(SHAREGPT_TURN)}
SHAREGPT_SIDES = {"chosen": SHAREGPT_TURN, "rejected": SHAREGPT_TURN}
SCORES = {"score_chosen": NUMBER, "score_rejected": NUMBER}
FULL = {"pairs": Form(conversations, PARQUET, BOTH), "examples": Form(messages, PARQUET, CHAT)}
LAYOUTS = {
    "trl": Layout(
        {
            "pairs": Form(trl_pair, PARQUET, {**BOTH, "prompt": TURNS}),
            "examples": Form(trl_example, PARQUET, {"example_id": TEXT, "prompt": TURNS, "completion": TURNS}),
        }
    ),
    "h4": Layout(
        {
            "pairs": Form(
                h4_pair, "data/{split}_prefs-00000-of-00001.parquet", {**ASKED, **BOTH, "messages": TURNS, **SCORES}
            ),
            "examples": Form(h4_example, "data/{split}_sft-00000-of-00001.parquet", {**ASKED, **CHAT}),
        },
        test_share=0.1,
    ),
    "nemo-rl": Layout(
        {"pairs": Form(nemo_rl_pair, "{split}.jsonl", {}), "examples": Form(messages, "{split}.jsonl", {})}
    ),
    "openrlhf": Layout(FULL),
    "llama-factory": Layout(
        {
            "pairs": Form(llama_factory_pair, PARQUET, {"pair_id": TEXT, **SHAREGPT, **SHAREGPT_SIDES}),
            "examples": Form(llama_factory_example, PARQUET, {"example_id": TEXT, **SHAREGPT}),
        },
        holds=alternating,
        index=True,
    ),
    "open-instruct": Layout(FULL),
}
"""Layouts by name."""
