"""What a tiny model directory holds beside its weights."""

import json
from collections.abc import Sequence
from pathlib import Path

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<|{{ m['role'] }}|>{{ m['content'] | trim }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""What Gemma 2 refuses, in the tokens of the tiny tokenizer."""
THINKING = (
    "{% for m in messages %}{% set c = m.content %}{% set thought = '' %}"
    "{% if m.role == 'assistant' and '</think>' in c %}"
    "{% set thought = c.split('</think>')[0].split('<think>')[-1].strip('\\n') %}"
    "{% set c = c.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
    "<|{{ m.role }}|>{% if m.role == 'assistant' and loop.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}"
    "{{ c }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
"""As Qwen3's thinking models have it: the prompt opens a thought, and earlier turns are shown without theirs."""
DEEPSEEK = (
    "{% for m in messages %}{% set c = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}"
    "<|{{ m.role }}|>{{ c }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
"""As DeepSeek-R1 has it: no thought in a history, not even an empty one."""
SPECIAL_TOKENS = ["<pad>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]


def write_llama(folder: Path, heads: int = 4, groups: int = 2) -> Path:
    """A random Llama of two layers, hidden size 64, with its tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        max_position_embeddings=256,
        initializer_range=0.2,
        eos_token_id=4,
        pad_token_id=0,
        bos_token_id=None,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def write_tokenizer(
    folder: Path, chat_template: str = CHAT_TEMPLATE, special: Sequence[str] = SPECIAL_TOKENS, end: str = "<|end|>"
) -> None:
    """A byte-level BPE tokenizer with a chat template, as Hugging Face lays it out; turns end with `end`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["Hello world, how are you? Say hello to the world. Score: 3"] * 4, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": end,
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(chat_template)
    ends = {"eos_token_id": [tokenizer.token_to_id(end)], "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(ends))


def add_marks_of_thoughts(folder: Path, special: bool = False) -> tuple[int, int]:
    """Give the tokenizer tokens of its own for `<think>` and `</think>`; returns their ids."""
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    first = len(spec["model"]["vocab"])
    marks = [(first, "<think>"), (first + 1, "</think>")]
    plain = {**spec["added_tokens"][0], "special": special}
    spec["added_tokens"] += [{**plain, "id": token, "content": mark} for token, mark in marks]
    path.write_text(json.dumps(spec))
    return first, first + 1
