"""Examples for the trainer from the pipeline's tables, and a reason for each one that is not trained on."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from stages import tables
from stages.config import ChatSection
from stages.contracts.artifacts import read
from stages.contracts.errors import StageError
from stages.contracts.ids import digest, prompt_id
from stages.prompting.chat import ChatTokenizer
from stages.prompting.system_turns import TurnRules
from stages.sources.chat_records import FIELDS, Conversation, parse
from stages.sources.files import read_rows
from stages.training.batches import Example, Row
from stages.training.objectives import pair_facts


class Screened(NamedTuple):
    """Examples to train on, and rows of table `train_ledger` for those that are left out."""

    kept: list[Example]
    left_out: list[dict[str, Any]]

    def share(self, *reasons: str) -> float:
        """Share of all examples that are left out for one of the reasons."""
        count = sum(row["reason"] in reasons for row in self.left_out)
        return count / max(1, len(self.kept) + len(self.left_out))

    def __str__(self) -> str:
        counts = Counter(row["reason"] for row in self.left_out)
        left = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        return f"{len(self.kept)} of {len(self.kept) + len(self.left_out)}" + (f"; left out: {left}" if left else "")


BAD = ("empty", "identical", "not_finite")
"""Reasons why a pair has no usable gradient."""
PAIR_COLUMNS = [
    *("pair_id", "kind", "prompt_id", "score_chosen", "score_rejected"),
    *("prompt_token_ids", "chosen_token_ids", "rejected_token_ids"),
]


def preference_examples(
    pairs: Path,
    reference: Path | None,
    max_length: int,
    judge_pair_margin: float | None = None,
    thoughts: Callable[[Sequence[int]], int] | None = None,
) -> Screened:
    """One example per pair: loss weight 1 on response tokens (stop token included), 0 on the prompt, and on as many
    tokens of each response as `thoughts` says, if it is given.

    Left out are pairs with a member of more than `max_length` tokens or without response tokens, with two equal members
    (whose gradients cancel), or with a log-probability that is not finite. With `reference`, its log-probabilities are
    joined by pair_id; StageError if a pair that is kept has none, or one of other tokens. The score margin of judge
    pairs is `judge_pair_margin`, whatever scores they carry: the scores that two judgements give say nothing about
    which judgement is the better.
    """
    known: dict[str, tuple[tuple[float, float], list[int]]] = {}
    if reference is not None:
        known = {
            key: ((chosen, rejected), counts)
            for key, chosen, rejected, *counts in read(reference, tables.REFERENCE_LOGPROBS).iter_rows()
        }
    kept, left_out = [], []
    for key, kind, prompt, *scores, prompt_ids, chosen, rejected in read(pairs, tables.PAIRS, PAIR_COLUMNS).iter_rows():
        rows = tuple(_answer_row(prompt_ids, ids, thoughts(ids) if thoughts else 0) for ids in (chosen, rejected))
        margin = judge_pair_margin if kind == "judge" else None if None in scores else scores[0] - scores[1]
        logprobs, counts = known.get(key, ((0.0, 0.0), None))
        example = Example(key, rows, logprobs, 1.0, margin, prompt, pair_facts(kind, scores))
        if fault := _fault(example, max_length):
            left_out.append(_ledger_row(key, kind, *fault))
        elif reference is not None and key not in known:
            raise StageError(f"{reference}: no log-probabilities for pair {key} of {pairs}; delete it and rerun")
        elif counts and counts != [round(float(row.weights.sum())) for row in rows]:
            raise StageError(
                f"{reference}: sums over {counts} tokens of pair {key}, of which other ones carry loss (by another "
                "chat.train_thoughts?); delete it and rerun"
            )
        else:
            kept.append(example)
    return Screened(kept, left_out)


def untrained(model: Path, chat: ChatSection) -> Callable[[Sequence[int]], int] | None:
    """How many of a response's tokens are thoughts that carry no loss; None where thoughts carry loss, too."""
    return None if chat.train_thoughts else ChatTokenizer(model, chat).thought_length


def require_margins(examples: Sequence[Example], pairs: Path, loss: str) -> None:
    """StageError that names the first pair without a score margin, which `loss` needs."""
    for example in examples:
        if example.score_margin is None:
            raise StageError(
                f"{pairs}: pair {example.key} has no score margin, which train.loss `{loss}` needs: set "
                "train.judge_pair_margin if it is a judge pair, otherwise a loss that needs none (dpo, ipo)"
            )


def require_fitting(screened: Screened, source: str) -> None:
    """StageError that names the first example left out for its length."""
    for row in screened.left_out:
        if row["reason"] == "overlong":
            raise StageError(
                f"{source}: {row['pair_id']} has {row['detail']} tokens: raise megatron.max_sequence_length, or set "
                "`overlong: drop`"
            )


class Encoder(NamedTuple):
    """How conversations become examples."""

    chat: ChatTokenizer
    rules: TurnRules
    """What becomes of turns that the template refuses."""
    train_thoughts: bool = True
    """Whether the thought that an answer begins with carries loss."""

    def example(
        self, key: str, messages: list[dict[str, str]], answer: list[int] | None = None, prompt_weight: float = 0.0
    ) -> Example | str:
        """The example of a conversation that ends in an answer, or why the template refuses its turns."""
        prompt, refusal = self.rules.admit(messages[:-1], key)
        if refusal is not None:
            return refusal
        segments = self.chat.encode_turns([*prompt, *messages[-1:]], answer)
        weight_of = {"template": 0.0, "input": prompt_weight, "answer": 1.0, "stop": 1.0}
        weight_of["thought"] = float(self.train_thoughts)
        tokens = np.concatenate([np.asarray(ids, dtype=np.int64) for _, ids in segments])
        weights = np.concatenate([np.full(len(ids), weight_of[kind], dtype=np.float32) for kind, ids in segments])
        return Example(key, (Row(tokens, weights),), prompt=prompt_id(messages[:-1]))


def supervised_examples(paths: list[Path], encoder: Encoder, max_length: int) -> Screened:
    """One example per conversation: weight 1 on the last answer with its stop token, `prompt_loss_weight` on the text
    of the input turns, 0 on the template's own tokens. Left out are those longer than `max_length` tokens, and those
    whose turns the template refuses, unless the encoder's rules keep them: then a StageError names the first."""
    columns = ["example_id", "messages", "answer_token_ids", "prompt_loss_weight"]
    rows = read(paths, tables.SFT_EXAMPLES).select(columns).iter_rows()
    return _screened({row[0]: encoder.example(*row) for row in rows}, max_length)


def answer_examples(paths: list[Path], encoder: Encoder, max_length: int) -> Screened:
    """One example per conversation of chat data (JSONL or Parquet) that has an answer: weight 1 on the data set's own
    answer with its stop token. Left out are the same as of `supervised_examples`."""
    examples = {}
    for path in paths:
        for _, _, found in read_rows(path, parse, FIELDS, "conversations", strict=True):
            if isinstance(found, Conversation) and found.answer is not None:
                turns = [*found.messages, {"role": "assistant", "content": found.answer}]
                examples[digest("answer", turns)] = turns
    return _screened({key: encoder.example(key, turns) for key, turns in examples.items()}, max_length)


def _screened(examples: dict[str, Example | str], max_length: int) -> Screened:
    kept, left_out = [], []
    for key, example in examples.items():
        if isinstance(example, str):
            left_out.append(_ledger_row(key, "sft", "template", example))
        elif fault := _fault(example, max_length):
            left_out.append(_ledger_row(key, "sft", *fault))
        else:
            kept.append(example)
    return Screened(kept, left_out)


def _fault(example: Example, max_length: int) -> tuple[str, str] | None:
    """Reason and detail why an example cannot be trained on, if so."""
    if example.length > max_length:
        return "overlong", f"{example.length} of at most {max_length}"
    if not all(row.weights[1:].any() for row in example.rows):
        return "empty", "no token carries loss"
    if len(example.rows) == 2 and np.array_equal(example.rows[0].tokens, example.rows[1].tokens):
        return "identical", "both members are the same tokens"
    if not np.isfinite(example.reference).all():
        return "not_finite", f"reference log-probabilities {example.reference}"
    return None


def _ledger_row(key: str, kind: str, reason: str, detail: str) -> dict[str, Any]:
    return {"pair_id": key, "kind": kind, "reason": reason, "detail": detail}


def held_out_row(example: Example) -> dict[str, Any]:
    """The row of table `train_ledger` of an example that only validation sees."""
    kind = "sft" if len(example.rows) == 1 else "judge" if example.facts["judge_share"] else "actor"
    return _ledger_row(example.key, kind, "held_out", f"prompt {example.prompt}")


def pair_texts(pairs: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """`pair_id`, `kind`, `prompt`, `chosen` and `rejected` (messages) of some pairs, in the order of their keys."""
    data = read(pairs, tables.PAIRS, ["pair_id", "kind", "prompt", "chosen", "rejected"])
    return data.filter(pl.col("pair_id").is_in(keys)).sort("pair_id").to_dicts()


def example_texts(paths: list[Path], keys: Sequence[str]) -> list[dict[str, Any]]:
    """The same of supervised examples: `chosen` is the last turn, and nothing is rejected."""
    data = read(paths, tables.SFT_EXAMPLES, ["example_id", "messages"]).filter(pl.col("example_id").is_in(keys))
    return [
        {"pair_id": key, "kind": "sft", "prompt": turns[:-1], "chosen": turns[-1:], "rejected": None}
        for key, turns in data.sort("example_id").iter_rows()
    ]


def _answer_row(prompt: list[int], answer: list[int], thoughts: int) -> Row:
    weights = np.zeros(len(prompt) + len(answer), dtype=np.float32)
    weights[len(prompt) + thoughts :] = 1.0
    return Row(np.asarray([*prompt, *answer], dtype=np.int64), weights)
