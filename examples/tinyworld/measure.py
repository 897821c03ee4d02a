"""What the base model can do, on held-out instructions: answer, judge, compare judgements.

.venv/bin/python examples/tinyworld/measure.py [MODEL]
"""

import random
import sys
from pathlib import Path
from statistics import mean

from build import PROMPTS
from speakers import judgement_pair, mixed_answer
from world import CHECKS, Task, checks, draw_task

from stages.algorithms.parsing import parse_score, parse_winner
from stages.config import EngineSettings, RateSection, Sampling, ScoreSection
from stages.engines import open_engine
from stages.engines.protocol import Engine, Request
from stages.prompting.chat import ChatTokenizer
from stages.prompting.templates import load_template

GREEDY, SAMPLED = Sampling(temperature=0.0, max_tokens=100), Sampling(temperature=1.0, max_tokens=100)


def main() -> None:
    """Measure and print."""
    model = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "base"
    chat = ChatTokenizer(model)
    with open_engine(model, EngineSettings(dtype="float32", max_sequence_length=384, batch_tokens=16384)) as engine:
        for name, sampling in (("T=1", SAMPLED), ("greedy", GREEDY)):
            print(f"actor  {name:7} {actor(engine, chat, sampling)}")
            print(f"judge  {name:7} {judge(engine, chat, sampling)}")
            print(f"meta   {name:7} {meta_judge(engine, chat, sampling)}")


def actor(engine: Engine, chat: ChatTokenizer, sampling: Sampling) -> str:
    """Mean true quality of answers."""
    tasks = held_out_tasks(random.Random(1), 400)
    texts = ask(engine, chat, [task.prompt for task in tasks], sampling)
    return f"true quality {mean(sum(checks(t, text).values()) for t, text in zip(tasks, texts, strict=True)):.2f}"


def judge(engine: Engine, chat: ChatTokenizer, sampling: Sampling) -> str:
    """How often each verdict is true, and the score exact."""
    rng = random.Random(2)
    template = load_template(PROMPTS / "judge.jinja", {"conversation", "response"})
    cases = [(task, mixed_answer(task, rng)) for task in held_out_tasks(rng, 600)]
    texts = ask(engine, chat, [template.render(conversation=t.prompt, response=r) for t, r in cases], sampling)
    truths = [checks(task, response) for task, response in cases]
    settings = ScoreSection()
    votes = [parse_score(text, "stop", settings.pattern, settings.low, settings.high).value for text in texts]
    exact = mean(vote == sum(truth.values()) for vote, truth in zip(votes, truths, strict=True))
    verdicts = []
    for check in CHECKS:
        right = [
            f"{check} {'yes' if truth[check] else 'no'}" in text for text, truth in zip(texts, truths, strict=True)
        ]
        verdicts.append(f"{check} {mean(right):.3f}")
    return f"score exact {exact:.3f}, parsed {mean(vote is not None for vote in votes):.3f}, {', '.join(verdicts)}"


def meta_judge(engine: Engine, chat: ChatTokenizer, sampling: Sampling) -> str:
    """How often the better judgement wins, and how often the first."""
    rng = random.Random(3)
    variables = {"conversation", "response", "judgement_a", "judgement_b"}
    template = load_template(PROMPTS / "meta_judge.jinja", variables)
    prompts, better = [], []
    for task in held_out_tasks(rng, 600):
        response = mixed_answer(task, rng)
        first, second, target = judgement_pair(task, response, rng)
        prompts.append(
            template.render(conversation=task.prompt, response=response, judgement_a=first, judgement_b=second)
        )
        better.append(target[-1].lower())
    winners = [parse_winner(text, "stop", RateSection().pattern).value for text in ask(engine, chat, prompts, sampling)]
    right = mean(winner == truth for winner, truth in zip(winners, better, strict=True))
    return f"right {right:.3f}, picks A {mean(winner == 'a' for winner in winners):.3f}"


def held_out_tasks(rng: random.Random, count: int) -> list[Task]:
    """Instructions that nothing was trained on."""
    tasks = (draw_task(rng) for _ in iter(int, 1))
    return [task for task, _ in zip((task for task in tasks if task.held_out), range(count), strict=False)]


def ask(engine: Engine, chat: ChatTokenizer, prompts: list[str], sampling: Sampling) -> list[str]:
    """The model's answers, in order."""
    tokens = chat.encode_batch([[{"role": "user", "content": prompt}] for prompt in prompts])
    requests = [Request(str(i), tuple(ids), seed=i) for i, ids in enumerate(tokens)]
    texts = {completion.request_id: completion.text for completion in engine.generate(requests, sampling)}
    return [texts[request.request_id] for request in requests]


if __name__ == "__main__":
    main()
