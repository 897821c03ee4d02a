"""The torch engine against Transformers' `generate`, on the demo's judging load: same model, prompts, votes, threads.

    .venv/bin/python benchmarks/generation_vs_hf.py

Both sample at temperature 1 until the end of the turn. `generate` gets its best setting of those tried: left-padded
batches of prompts sorted by length, `num_return_sequences` votes. The two alternate; the ratio of medians is printed.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import torch
from transformers import AutoModelForCausalLM

from stages.config import EngineSettings, Sampling
from stages.engines import open_engine
from stages.engines.protocol import Request
from stages.prompting.chat import ChatTokenizer
from stages.prompting.judge_requests import judge_inputs
from stages.prompting.templates import load_template

WORLD = Path("examples/tinyworld")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=300)
    parser.add_argument("--votes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=100, help="prompts per batch of `generate`")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prompts = judge_prompts(options.prompts)
    settings = EngineSettings(batch_tokens=16384, max_sequence_length=384)
    model = AutoModelForCausalLM.from_pretrained(WORLD / "base", dtype=torch.float32).eval()
    with open_engine(WORLD / "base", settings) as engine:
        requests = [
            Request(f"{i}-{v}", tuple(p), seed=i * 99 + v) for i, p in enumerate(prompts) for v in range(options.votes)
        ]

        def ours() -> int:
            return sum(len(done.token_ids) for done in engine.generate(requests, Sampling(max_tokens=60)))

        def theirs() -> int:
            return hf_generate(model, prompts, options.votes, options.batch)

        compare({"torch engine": ours, "transformers generate": theirs}, options.rounds)


def judge_prompts(count: int) -> list[list[int]]:
    """Judge prompts of ranked answers, as token ids."""
    records = [json.loads(line) for line in (WORLD / "ranked.jsonl").open()]
    asked = [(record["prompt"], answer["text"]) for record in records for answer in record["answers"]][:count]
    responses = pl.DataFrame(
        {
            "prompt_id": [str(number) for number in range(len(asked))],
            "candidate_id": [str(number) for number in range(len(asked))],
            "messages": [[{"role": "user", "content": prompt}] for prompt, _ in asked],
            "text": [text for _, text in asked],
        }
    )
    template = load_template(Path("prompts/tinyworld/judge.jinja"), {"conversation", "response"})
    return judge_inputs(responses, template, ChatTokenizer(WORLD / "base"), 324)["token_ids"].to_list()


def hf_generate(model: torch.nn.Module, prompts: list[list[int]], votes: int, batch: int) -> int:
    """Tokens that `generate` produced, stop tokens included."""
    pad, end, produced = 0, 3, 0
    ordered = sorted(prompts, key=len)
    for start in range(0, len(ordered), batch):
        group = ordered[start : start + batch]
        width = max(map(len, group))
        tokens = torch.tensor([[pad] * (width - len(ids)) + ids for ids in group])
        output = model.generate(
            tokens,
            attention_mask=(tokens != pad).long(),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=60,
            num_return_sequences=votes,
            eos_token_id=end,
            pad_token_id=pad,
        )
        produced += int((output[:, width:] != pad).sum())
    return produced


def compare(sides: dict[str, Callable[[], int]], rounds: int) -> None:
    """Alternate the sides after a warm-up; print median tokens per second and the ratio."""
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for round_number in range(rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            produced = run()
            if round_number:
                speeds[name].append(produced / (time.perf_counter() - started))
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    for name, median in medians.items():
        print(f"{name:24} {median:8.0f} tokens/s   (rounds: {', '.join(f'{v:.0f}' for v in speeds[name])})")
    first, second = medians.values()
    print(f"ratio {first / second:.2f}", file=sys.stdout)


if __name__ == "__main__":
    main()
