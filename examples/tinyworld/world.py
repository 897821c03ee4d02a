"""The rules of the tiny world: words, instructions, ideal answers, and what makes an answer good.

An instruction asks to sort, reverse, repeat or pick the words of a list. An answer earns one point for each of five
checks; this module knows the truth, so nothing that the model learns from in the loop may import it.
"""

import hashlib
import random
import re
from dataclasses import dataclass

CATEGORIES = {
    "fruits": "apple banana cherry fig grape kiwi lemon mango peach plum",
    "animals": "bear camel cat dog fox goat horse lion mouse tiger",
    "colours": "black blue brown green grey pink purple red white yellow",
    "tools": "axe brush drill hammer knife ladder nail rope saw spade",
    "cities": "Berlin Cairo Delhi Lima London Madrid Oslo Paris Rome Tokyo",
    "drinks": "beer cider cocoa coffee juice lemonade milk soda tea water",
}
WORDS = {name: words.split() for name, words in CATEGORIES.items()}
PHRASINGS = {
    "sort": ("Sort the {c} from A to Z: {l}.", "Put these {c} in alphabetical order: {l}."),
    "reverse": ("List the {c} in reverse: {l}.", "Say these {c} backwards: {l}."),
    "repeat": ("Repeat the {c} as they are: {l}.", "Copy these {c}: {l}."),
    "pick": ("Pick only the {c}: {l}.", "Keep just the {c} from this list: {l}."),
}
OPENINGS = {
    "sort": "Here are the {c} from A to Z:",
    "reverse": "Here are the {c} in reverse:",
    "repeat": "Here are the {c} as given:",
    "pick": "Here are only the {c}:",
}
CLOSING = " I hope this helps!"
CHECKS = ("relevant", "substantial", "complete", "ordered", "clean")


@dataclass(frozen=True)
class Task:
    """An instruction: what to do, with which category, on which words, said in which of two ways."""

    kind: str
    category: str
    given: tuple[str, ...]
    phrasing: int

    @property
    def prompt(self) -> str:
        """The instruction as text."""
        return PHRASINGS[self.kind][self.phrasing].format(c=self.category, l=", ".join(self.given))

    @property
    def opening(self) -> str:
        """The only right opening of an answer."""
        return OPENINGS[self.kind].format(c=self.category)

    @property
    def expected(self) -> tuple[str, ...]:
        """The words of a perfect answer, in order."""
        if self.kind == "sort":
            return tuple(sorted(self.given, key=str.lower))
        if self.kind == "reverse":
            return tuple(reversed(self.given))
        if self.kind == "pick":
            return tuple(word for word in self.given if word in WORDS[self.category])
        return self.given

    @property
    def held_out(self) -> bool:
        """Whether the instruction belongs to the tenth that nothing is ever trained on."""
        return int(hashlib.md5(self.prompt.encode()).hexdigest(), 16) % 10 == 0


def draw_task(rng: random.Random) -> Task:
    """A random instruction."""
    kind, category = rng.choice(list(PHRASINGS)), rng.choice(list(WORDS))
    if kind == "pick":
        targets, foreign = rng.choice([(2, 1), (3, 2), (3, 2), (4, 2)])
        others = [word for name, words in WORDS.items() if name != category for word in words]
        given = rng.sample(WORDS[category], targets) + rng.sample(others, foreign)
        rng.shuffle(given)
    else:
        given = rng.sample(WORDS[category], rng.choice([3, 4, 4, 5]))
    return Task(kind, category, tuple(given), rng.randrange(2))


def parse_task(prompt: str) -> Task:
    """The task behind an instruction's text; ValueError if it is not one of this world's instructions."""
    for kind, phrasings in PHRASINGS.items():
        for number, phrasing in enumerate(phrasings):
            pattern = re.escape(phrasing).replace(r"\{c\}", r"(\w+)").replace(r"\{l\}", "(.+)")
            match = re.fullmatch(pattern, prompt)
            if match and match[1] in WORDS:
                return Task(kind, match[1], tuple(match[2].split(", ")), number)
    raise ValueError(f"not an instruction of the tiny world: {prompt!r}")


def said_words(response: str) -> list[str]:
    """The words of the answer's list: between its first colon and the first full stop after it."""
    listed = response.partition(":")[2].partition(".")[0]
    return [word.strip() for word in listed.split(",") if word.strip()]


def checks(task: Task, response: str) -> dict[str, bool]:
    """The five additive checks of an answer."""
    said, expected = said_words(response), task.expected
    found = [word for word in dict.fromkeys(said) if word in expected]
    tail = response.partition(":")[2].partition(".")[2]
    return {
        "relevant": response.removeprefix("Sure. ").startswith(task.opening),
        "substantial": len(found) * 2 >= len(expected),
        "complete": len(found) == len(expected),
        "ordered": len(found) >= 2 and found == [word for word in expected if word in found],
        "clean": len(said) == len(found) and tail == CLOSING,
    }


def marks(task: Task, response: str) -> list[tuple[str, str]]:
    """Each expected word with `ok`, `missing` or `misplaced` (another expected word stands before it than should)."""
    found = [word for word in dict.fromkeys(said_words(response)) if word in task.expected]
    in_order = [word for word in task.expected if word in found]
    result = []
    for word in task.expected:
        if word not in found:
            result.append((word, "missing"))
            continue
        before = found[found.index(word) - 1] if found.index(word) else None
        should = in_order[in_order.index(word) - 1] if in_order.index(word) else None
        result.append((word, "ok" if before == should else "misplaced"))
    return result
