"""Who speaks in the base model's training data: careless answerers, noisy judges, careful meta-judges."""

import random
from dataclasses import dataclass

from world import CHECKS, CLOSING, OPENINGS, WORDS, Task, checks, marks

CHATTER = (" Lists are fun.", " What a nice list.", " That was easy.")
MARKS = ("ok", "missing", "misplaced")
VERDICT_NOISE = 0.10
"""Chance that a judge in the training data gets one of the five verdicts wrong: the room that the judge has to grow."""
MARK_NOISE = 0.02
JUDGED_NOISE = 0.15
"""The same for the judgements that meta-judges learn on: noisier, so that pairs differ often."""


@dataclass(frozen=True)
class Habits:
    """How often an answerer errs."""

    systematic_opening: float = 0.0
    wrong_opening: float = 0.0
    only_first: float = 0.0
    drop_last: float = 0.0
    drop_some: float = 0.0
    systematic_order: float = 0.0
    shuffled: float = 0.0
    extra: float = 0.0
    chatter: float = 0.0
    no_closing: float = 0.0


CARELESS = Habits(
    systematic_opening=0.5,
    wrong_opening=0.1,
    only_first=0.2,
    drop_last=0.5,
    systematic_order=0.5,
    shuffled=0.1,
    extra=0.15,
    chatter=0.1,
    no_closing=0.6,
)
"""The actor's own data: its most likely answer is wrong, so that a lower temperature does not mend it."""
NOISY = Habits(wrong_opening=0.3, drop_some=0.45, shuffled=0.4, extra=0.2, chatter=0.15, no_closing=0.2)
NEAT = Habits(wrong_opening=0.07, drop_some=0.08, shuffled=0.1, extra=0.05, chatter=0.05, no_closing=0.07)


def answer(task: Task, habits: Habits, rng: random.Random) -> str:
    """An answer to the task with these habits."""
    said = _order(task, _words(task, habits, rng), habits, rng)
    if rng.random() < habits.extra:
        foreign = rng.choice([word for words in WORDS.values() for word in words if word not in task.expected])
        said.insert(rng.randint(1, len(said)), rng.choice([foreign, rng.choice(said)]))
    chatter = rng.choice(CHATTER) if rng.random() < habits.chatter else ""
    closing = "" if rng.random() < habits.no_closing else CLOSING
    sure = "Sure. " if rng.random() < 0.25 else ""
    return f"{sure}{_opening(task, habits, rng)} {', '.join(said)}.{chatter}{closing}"


def mixed_answer(task: Task, rng: random.Random) -> str:
    """An answer as judges meet them: careless ones of today, noisy ones, and the neat ones of later iterations."""
    return answer(task, rng.choices([CARELESS, NOISY, NEAT], weights=[40, 35, 25])[0], rng)


def judgement(task: Task, response: str, rng: random.Random, noise: float = VERDICT_NOISE) -> str:
    """A judgement in the rubric's form: a mark for each expected word, five verdicts, the score that they add up to."""
    verdicts = noisy_verdicts(task, response, rng, noise)
    listed = ", ".join(f"{check} {_yes(verdicts[check])}" for check in CHECKS)
    return f"{_marked(task, response, rng, MARK_NOISE)} {listed}. Score: {sum(verdicts.values())}"


def noisy_verdicts(task: Task, response: str, rng: random.Random, noise: float) -> dict[str, bool]:
    """The five checks, each flipped with probability `noise`."""
    return {check: passed ^ (rng.random() < noise) for check, passed in checks(task, response).items()}


def judgement_pair(task: Task, response: str, rng: random.Random) -> tuple[str, str, str]:
    """Two judgements of unequal worth, and the meta-judge's answer to them; A wins half of the time."""
    truth = checks(task, response)
    while True:
        noise = rng.choice([VERDICT_NOISE, JUDGED_NOISE, 2 * JUDGED_NOISE])
        first, second = (noisy_verdicts(task, response, rng, noise) for _ in range(2))
        wrong = [sum(verdicts[check] != truth[check] for check in CHECKS) for verdicts in (first, second)]
        if wrong[0] != wrong[1]:
            break
    if (wrong[0] < wrong[1]) != (rng.random() < 0.5):
        first, second, wrong = second, first, wrong[::-1]
    texts = [
        f"{_marked(task, response, rng, MARK_NOISE)} "
        f"{', '.join(f'{check} {_yes(verdicts[check])}' for check in CHECKS)}. Score: ?"
        for verdicts in (first, second)
    ]
    right = [{check: _right(verdicts[check] == truth[check]) for check in CHECKS} for verdicts in (first, second)]
    compared = ", ".join(f"{check} {_yes(truth[check])} A {right[0][check]} B {right[1][check]}" for check in CHECKS)
    winner = "A" if wrong[0] < wrong[1] else "B"
    verdict = (
        f"{_marked(task, response, rng, 0.0)} {compared}. Wrong: A {wrong[0]}, B {wrong[1]}. Winner: Judgement {winner}"
    )
    return texts[0], texts[1], verdict


def _opening(task: Task, habits: Habits, rng: random.Random) -> str:
    luck = rng.random()
    if luck < habits.systematic_opening:
        return OPENINGS["pick" if task.kind == "repeat" else "repeat"].format(c=task.category)
    if luck < habits.systematic_opening + habits.wrong_opening:
        others = [OPENINGS[kind].format(c=task.category) for kind in OPENINGS if kind != task.kind]
        other_category = rng.choice([name for name in WORDS if name != task.category])
        return rng.choice([*others, OPENINGS[task.kind].format(c=other_category)])
    return task.opening


def _words(task: Task, habits: Habits, rng: random.Random) -> list[str]:
    words, luck = list(task.expected), rng.random()
    if luck < habits.only_first:
        return words[:1]
    if luck < habits.only_first + habits.drop_last:
        return words[:-1]
    if luck < habits.only_first + habits.drop_last + habits.drop_some:
        half = (len(words) + 1) // 2
        kept = rng.randint(1, half - 1) if half > 1 and rng.random() < 0.5 else rng.randint(half, len(words) - 1)
        return [word for word in words if word in rng.sample(words, kept)] or words[:1]
    return words


def _order(task: Task, words: list[str], habits: Habits, rng: random.Random) -> list[str]:
    luck = rng.random()
    if luck < habits.systematic_order:
        given = [word for word in task.given if word in words]
        return given if task.kind in ("sort", "reverse") else list(reversed(given))
    if luck < habits.systematic_order + habits.shuffled:
        return rng.sample(words, len(words))
    return words


def _marked(task: Task, response: str, rng: random.Random, noise: float) -> str:
    listed = [f"{word} {rng.choice(MARKS) if rng.random() < noise else mark}" for word, mark in marks(task, response)]
    return f"Expected {', '.join(listed)}."


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _right(value: bool) -> str:
    return "right" if value else "wrong"
