"""Rebuild everything that the demo starts from, in one go: tokenizer, base model, prompts and ranked answers.

    .venv/bin/python examples/tinyworld/build.py            # everything
    .venv/bin/python examples/tinyworld/build.py --data     # prompts and ranked answers only

The base model is trained by this project's own `train` stage (objective `sft`) on three kinds of examples: a careless
actor, a noisy judge, a careful meta-judge. The result replaces `examples/tinyworld/base/`.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from speakers import CARELESS, answer, judgement, judgement_pair, mixed_answer
from world import Task, checks, draw_task

from stages import tables
from stages.contracts.artifacts import write
from stages.contracts.ids import Message
from stages.contracts.schema import frame
from stages.prompting.templates import load_template

HERE = Path(__file__).parent
PROMPTS = HERE.parents[1] / "prompts" / "tinyworld"
SPECIAL_TOKENS = ["<pad>", "<|user|>", "<|assistant|>", "<|end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
MIXTURE = {"actor": 0.25, "judge": 0.45, "meta_judge": 0.30}
PROMPT_LOSS_WEIGHT = 0.3
"""Weight of the loss on judge and meta-judge inputs: a dense signal that the tiny model learns the language from."""


def main() -> None:
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("results/tinyworld-base"), help="scratch folder")
    parser.add_argument("--steps", type=int, default=3000, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, default=96, help="examples per step")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", action="store_true", help="only write the prompts and the ranked answers")
    options = parser.parse_args()
    write_prompts(random.Random(options.seed + 1))
    write_ranked(random.Random(options.seed + 2))
    if options.data:
        return
    started = time.time()
    examples = list(supervised(options.steps * options.batch_size, random.Random(options.seed)))
    write(
        frame(tables.SFT_EXAMPLES, examples),
        options.work / "examples.parquet",
        tables.SFT_EXAMPLES,
        {"seed": options.seed},
    )
    build_initial_model(examples[:20_000], options.work / "initial", options.seed)
    train(options)
    ship(options.work / "model")
    print(f"base model built in {(time.time() - started) / 60:.0f} minutes", file=sys.stderr)


def supervised(count: int, rng: random.Random) -> Iterator[dict[str, Any]]:
    """Rows of SFT_EXAMPLES on instructions that are not held out."""
    judge = load_template(PROMPTS / "judge.jinja", {"conversation", "response"})
    meta = load_template(PROMPTS / "meta_judge.jinja", {"conversation", "response", "judgement_a", "judgement_b"})
    for number in range(count):
        task = trainable_task(rng)
        kind = rng.choices(list(MIXTURE), weights=list(MIXTURE.values()))[0]
        if kind == "actor":
            prompt, target = task.prompt, answer(task, CARELESS, rng)
        elif kind == "judge":
            response = mixed_answer(task, rng)
            prompt = judge.render(conversation=task.prompt, response=response)
            target = judgement(task, response, rng)
        else:
            response = mixed_answer(task, rng)
            first, second, target = judgement_pair(task, response, rng)
            prompt = meta.render(conversation=task.prompt, response=response, judgement_a=first, judgement_b=second)
        yield {
            "example_id": f"{number:07d}",
            "messages": [*_user(prompt), {"role": "assistant", "content": target}],
            "prompt_loss_weight": 0.0 if kind == "actor" else PROMPT_LOSS_WEIGHT,
        }


def trainable_task(rng: random.Random) -> Task:
    """An instruction from the nine tenths that are not held out."""
    return next(task for task in iter(lambda: draw_task(rng), None) if not task.held_out)


def build_initial_model(examples: list[dict[str, Any]], directory: Path, seed: int) -> None:
    """A tokenizer trained on the examples, and a randomly initialised Llama of 0.94 million parameters."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=760,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((turn["content"] for row in examples for turn in row["messages"]), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<pad>", chat_template=CHAT_TEMPLATE
    )
    fast.save_pretrained(directory)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=-(-len(fast) // 32) * 32,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        head_dim=32,
        max_position_embeddings=512,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    GenerationConfig(eos_token_id=fast.eos_token_id, pad_token_id=fast.pad_token_id).save_pretrained(directory)


def train(options: argparse.Namespace) -> None:
    """Supervised training through the pipeline's own stage, on two ranks."""
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
        *("-m", "stages.train", "--objective", "sft", "--megatron.processes", "2"),
        *("--model", options.work / "initial", "--examples", options.work / "examples.parquet"),
        *("--output", options.work / "model" / "manifest.json", "--metrics", options.work / "metrics.parquet"),
        *(
            "--seed",
            options.seed,
            "--epochs",
            1,
            "--batch-size",
            options.batch_size,
            "--megatron.micro-batch-tokens",
            4096,
        ),
        *("--optimizer.learning-rate", options.learning_rate, "--optimizer.min-learning-rate-ratio", 0.01),
        *("--optimizer.warmup-steps", 100, "--optimizer.beta2", 0.98, "--optimizer.weight-decay", 0.01),
    ]
    subprocess.run([str(word) for word in command], check=True)


def ship(trained: Path) -> None:
    """Round the trained weights to bfloat16 and put the model where the demo looks for it."""
    import torch
    from safetensors.torch import load_file, save_file

    base = HERE / "base"
    shutil.rmtree(base, ignore_errors=True)
    base.mkdir()
    for path in trained.iterdir():
        if path.is_file() and path.name not in ("model.safetensors", "manifest.json"):
            shutil.copyfile(path, base / path.name)
    tensors = load_file(trained / "model.safetensors")
    rounded = {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}
    save_file(rounded, base / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((base / "config.json").read_text()) | {"dtype": "bfloat16"}
    (base / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_prompts(rng: random.Random) -> None:
    """Prompts for the loop, and held-out ones to measure on."""
    for name, held_out, count in (("prompts.jsonl", False, 2400), ("held_out.jsonl", True, 400)):
        found: dict[str, None] = {}
        while len(found) < count:
            task = draw_task(rng)
            if task.held_out == held_out:
                found[task.prompt] = None
        lines = [json.dumps({"messages": _user(prompt)}) for prompt in found]
        (HERE / name).write_text("\n".join(lines) + "\n")


def write_ranked(rng: random.Random, count: int = 1200, answers: int = 4) -> None:
    """Instructions that the loop does not meet, each with answers of different quality, ranked, to teach and test the
    judge."""
    known = {json.loads(line)["messages"][0]["content"] for line in (HERE / "prompts.jsonl").open()}
    lines: dict[str, str] = {}
    while len(lines) < count:
        task = trainable_task(rng)
        by_quality: dict[int, str] = {}
        for _ in range(3 * answers):
            text = mixed_answer(task, rng)
            by_quality.setdefault(sum(checks(task, text).values()), text)
        if task.prompt in known or len(by_quality) < answers:
            continue
        drawn = rng.sample(sorted(by_quality), answers)
        ranked = [
            {"text": by_quality[quality], "rank": rank, "quality": float(quality)}
            for rank, quality in enumerate(sorted(drawn, reverse=True))
        ]
        rng.shuffle(ranked)
        lines.setdefault(task.prompt, json.dumps({"prompt": task.prompt, "answers": ranked}))
    (HERE / "ranked.jsonl").write_text("\n".join(lines.values()) + "\n")


def _user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


if __name__ == "__main__":
    main()
