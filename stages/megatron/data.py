"""Examples for the trainer from the pipeline's tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import polars as pl

from stages import tables
from stages.artifacts import read
from stages.errors import StageError
from stages.megatron.batches import Example, Row


class TurnEncoder(Protocol):
    """The part of `stages.chat.ChatTokenizer` that supervised examples need."""

    def encode_turns(
        self, messages: list[dict[str, str]], answer: list[int] | None = None
    ) -> list[tuple[str, list[int]]]:
        """Token segments of a conversation, each tagged `template`, `input`, `answer` or `stop`."""
        ...


PAIR_COLUMNS = [
    *("pair_id", "kind", "score_chosen", "score_rejected"),
    *("prompt_token_ids", "chosen_token_ids", "rejected_token_ids"),
]


def preference_examples(
    pairs: Path, reference: Path | None, max_length: int, judge_pair_margin: float | None = None
) -> list[Example]:
    """One example per pair: loss weight 1 on response tokens (stop token included), 0 on the prompt.

    With `reference`, its log-probabilities are joined by pair_id; StageError if a pair has none, or is longer than
    `max_length` tokens. The score margin of judge pairs is `judge_pair_margin`, whatever scores they carry: the scores
    that two judgements give say nothing about which judgement is the better.
    """
    data = read(pairs, tables.PAIRS, PAIR_COLUMNS)
    logprobs: dict[str, tuple[float, ...]] = {}
    if reference is not None:
        known = read(reference, tables.REFERENCE_LOGPROBS, ["pair_id", "chosen_logprob", "rejected_logprob"])
        logprobs = {row[0]: row[1:] for row in known.iter_rows()}
        missing = data.filter(~pl.col("pair_id").is_in(list(logprobs)))
        if missing.height:
            raise StageError(f"{reference}: no log-probabilities for pair {missing['pair_id'][0]} of {pairs}")
    examples = []
    for key, kind, *scores, prompt, chosen, rejected in data.iter_rows():
        rows = (_answer_row(prompt, chosen), _answer_row(prompt, rejected))
        margin = judge_pair_margin if kind == "judge" else None if None in scores else scores[0] - scores[1]
        example = Example(key, rows, logprobs.get(key, (0.0, 0.0)), score_margin=margin)
        if example.length > max_length:
            raise StageError(
                f"{pairs}: pair {key} has {example.length} tokens, above megatron.max_sequence_length ({max_length})"
            )
        examples.append(example)
    return examples


def require_margins(examples: Sequence[Example], pairs: Path, loss: str) -> None:
    """StageError that names the first pair without a score margin, which `loss` needs."""
    for example in examples:
        if example.score_margin is None:
            raise StageError(
                f"{pairs}: pair {example.key} has no score margin, which train.loss `{loss}` needs: set "
                "train.judge_pair_margin if it is a judge pair, otherwise a loss that needs none (dpo, ipo)"
            )


def supervised_examples(paths: list[Path], tokenizer: TurnEncoder, max_length: int) -> list[Example]:
    """One example per conversation: weight 1 on the last answer with its stop token, `prompt_loss_weight` on the text
    of the input turns, 0 on the template's own tokens; StageError for one longer than `max_length`."""
    data, files = read(paths, tables.SFT_EXAMPLES), ", ".join(map(str, paths))
    examples = []
    columns = ("example_id", "messages", "answer_token_ids", "prompt_loss_weight")
    for key, messages, answer, prompt_weight in data.select(columns).iter_rows():
        segments = tokenizer.encode_turns(messages, answer)
        weight_of = {"template": 0.0, "input": prompt_weight, "answer": 1.0, "stop": 1.0}
        tokens = np.concatenate([np.asarray(ids, dtype=np.int64) for _, ids in segments])
        weights = np.concatenate([np.full(len(ids), weight_of[kind], dtype=np.float32) for kind, ids in segments])
        if len(tokens) > max_length:
            raise StageError(
                f"{files}: example {key} has {len(tokens)} tokens, above megatron.max_sequence_length ({max_length})"
            )
        examples.append(Example(key, (Row(tokens, weights),)))
    return examples


def _answer_row(prompt: list[int], answer: list[int]) -> Row:
    weights = np.zeros(len(prompt) + len(answer), dtype=np.float32)
    weights[len(prompt) :] = 1.0
    return Row(np.asarray([*prompt, *answer], dtype=np.int64), weights)
