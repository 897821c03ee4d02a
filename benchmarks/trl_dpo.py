"""TRL's `DPOTrainer` on pairs of token ids, from memory: for the parity tests and the speed benchmark.

TRL tokenises text itself, so that it is given words that are token numbers, and a tokenizer that reads them back. It
scores the tokens after the common prefix of prompt and prompt + answer, up to and including the end-of-text token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from stages.config import MegatronSettings
from stages.megatron.parallel import Rank
from stages.reference_logprobs import logprobs
from stages.training.batches import Example, Row

PAD, END = 0, 4
WORDS = {PAD: "<pad>", END: "</s>"}


@dataclass(frozen=True)
class Pair:
    """Token ids of a prompt and of its two answers, both of which end with `END`."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    @property
    def length(self) -> int:
        """Tokens of the longer sequence."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def random_pair(rng: np.random.Generator, vocabulary: int, prompt: int, chosen: int, rejected: int) -> Pair:
    """A pair of these lengths; the answers' include the end-of-text token."""

    def tokens(count: int) -> list[int]:
        return rng.integers(END + 1, vocabulary, count).tolist()

    return Pair(tokens(prompt), [*tokens(chosen - 1), END], [*tokens(rejected - 1), END])


def text_pair(rng: np.random.Generator, text: Sequence[int], prompt: int, chosen: int, rejected: int) -> Pair:
    """A pair of these lengths whose sequences are parts of a text."""

    def tokens(count: int) -> list[int]:
        begin = int(rng.integers(len(text) - count))
        return list(text[begin : begin + count])

    return Pair(tokens(prompt), [*tokens(chosen - 1), END], [*tokens(rejected - 1), END])


def example(key: str, pair: Pair) -> Example:
    """The same pair as our trainer takes it; reference log-probabilities are 0."""

    def row(answer: list[int]) -> Row:
        weights = np.r_[np.zeros(len(pair.prompt)), np.ones(len(answer))].astype(np.float32)
        return Row(np.array(pair.prompt + answer), weights)

    return Example(key, (row(pair.chosen), row(pair.rejected)), (0.0, 0.0))


def with_reference(
    reference: Sequence[Any], examples: Sequence[Example], settings: MegatronSettings, rank: Rank
) -> list[Example]:
    """The examples with the log-probabilities that our own code gives them under a reference model."""
    rows = logprobs(reference, list(examples), settings, rank)
    known = {row["pair_id"]: (row["chosen_logprob"], row["rejected_logprob"]) for row in rows}
    return [replace(one, reference=known[one.key]) for one in examples]


def dpo_config(folder: Path, **settings: Any) -> DPOConfig:
    """fp32 on the CPU unless told otherwise, a constant learning rate, pairs in the given order; nothing is saved,
    evaluated or reported.

    TRL's defaults for CPU training would be bfloat16 and recomputed activations, both of which are slower here.
    """
    return DPOConfig(
        output_dir=str(folder),
        gradient_checkpointing=False,
        max_length=None,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        report_to="none",
        save_strategy="no",
        eval_strategy="no",
        disable_tqdm=True,
        optim="adamw_torch",
        **{"use_cpu": True, "bf16": False} | settings,
    )


def dpo_trainer(model: Any, pairs: Sequence[Pair], config: DPOConfig, **others: Any) -> DPOTrainer:
    """TRL's own trainer for these pairs; the reference policy is `ref_model`, or the model as it is now."""
    rows = [
        {name: " ".join(map(_word, getattr(pair, name))) for name in ("prompt", "chosen", "rejected")} for pair in pairs
    ]
    # The space between prompt and answer is the prompt's, and no token.
    data = Dataset.from_list([{**row, "prompt": row["prompt"] + " "} for row in rows])
    tokenizer = number_tokenizer(model.config.vocab_size)
    return DPOTrainer(model=model, args=config, train_dataset=data, processing_class=tokenizer, **others)


def number_tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are the token numbers themselves."""
    words = WordLevel({_word(token): token for token in range(vocabulary)}, unk_token=WORDS[PAD])
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=WORDS[END], pad_token=WORDS[PAD])


def _word(token: int) -> str:
    return WORDS.get(token, str(token))
