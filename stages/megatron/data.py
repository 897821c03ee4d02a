"""Examples for the trainer from the pipeline's tables."""

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


def preference_examples(pairs: Path, reference: Path | None, max_length: int) -> list[Example]:
    """One example per pair: loss weight 1 on response tokens (stop token included), 0 on the prompt.

    With `reference`, its log-probabilities are joined by pair_id; StageError if a pair has none, or is longer than
    `max_length` tokens.
    """
    data = read(pairs, tables.PAIRS, ["pair_id", "prompt_token_ids", "chosen_token_ids", "rejected_token_ids"])
    logprobs: dict[str, tuple[float, ...]] = {}
    if reference is not None:
        known = read(reference, tables.REFERENCE_LOGPROBS, ["pair_id", "chosen_logprob", "rejected_logprob"])
        logprobs = {row[0]: row[1:] for row in known.iter_rows()}
        missing = data.filter(~pl.col("pair_id").is_in(list(logprobs)))
        if missing.height:
            raise StageError(f"{reference}: no log-probabilities for pair {missing['pair_id'][0]} of {pairs}")
    examples = []
    for key, prompt, *answers in data.iter_rows():
        rows = tuple(_answer_row(prompt, answer) for answer in answers)
        example = Example(key, rows, logprobs.get(key, (0.0, 0.0)))
        if example.length > max_length:
            raise StageError(
                f"{pairs}: pair {key} has {example.length} tokens, above megatron.max_sequence_length ({max_length})"
            )
        examples.append(example)
    return examples


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
