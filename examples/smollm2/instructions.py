"""Checkable instructions in plain English: for each of IFEval's kinds, how people might ask for it.

An instruction is drawn with its arguments and one of several wordings. `CLASHES` are kinds that one answer can hardly
follow together.
"""

import random
from collections.abc import Callable
from itertools import combinations
from typing import Any, NamedTuple

WORDS = (
    *(
        "river",
        "garden",
        "window",
        "market",
        "bridge",
        "letter",
        "winter",
        "morning",
        "engine",
        "paper",
        "island",
        "music",
    ),
    *(
        "harvest",
        "lantern",
        "compass",
        "village",
        "promise",
        "thunder",
        "mirror",
        "basket",
        "signal",
        "journey",
        "copper",
    ),
)
ENDINGS = (
    "That is all there is to it.",
    "Let me know if this helps.",
    "And so the day ends.",
    "Try it and see.",
    "The rest is up to you.",
)


class Instruction(NamedTuple):
    """One instruction as it is asked, and what checks it."""

    kind: str
    text: str
    arguments: dict[str, Any]


Drawn = tuple[list[str], dict[str, Any]]
"""Wordings of an instruction, and the check's arguments."""


def _keywords(rng: random.Random) -> Drawn:
    first, second = rng.sample(WORDS, 2)
    return [
        f"Use the words {first} and {second}.",
        f'Work both "{first}" and "{second}" into it.',
        f"It has to mention {first} as well as {second}.",
    ], {"keywords": [first, second]}


def _frequency(rng: random.Random) -> Drawn:
    word, times = rng.choice(WORDS), rng.randint(2, 4)
    return [
        f"Use the word {word} at least {times} times.",
        f'"{word}" should occur {times} times or more.',
    ], {"keyword": word, "frequency": times, "relation": "at least"}


def _forbidden(rng: random.Random) -> Drawn:
    words = rng.sample(["the", "very", "and", "is", "good", "important", "can"], 2)
    return [
        f"Do without the words {words[0]} and {words[1]}.",
        f'Neither "{words[0]}" nor "{words[1]}" may occur.',
    ], {"forbidden_words": words}


def _letters(rng: random.Random) -> Drawn:
    letter, times = rng.choice("qzxjkvw"), rng.randint(2, 4)
    return [
        f"The letter {letter} should appear at least {times} times.",
        f"Make sure that there are {times} or more letters {letter}.",
    ], {"letter": letter, "let_frequency": times, "let_relation": "at least"}


def _short(rng: random.Random) -> Drawn:
    words = rng.choice([30, 40, 50, 60])
    return [
        f"Use fewer than {words} words.",
        f"Stay under {words} words.",
        f"Your whole answer must have less than {words} words.",
    ], {"num_words": words, "relation": "less than"}


def _few_sentences(rng: random.Random) -> Drawn:
    number = rng.randint(3, 5)
    return [
        f"Use fewer than {number} sentences.",
        f"Keep it below {number} sentences.",
    ], {"num_sentences": number, "relation": "less than"}


def _paragraphs(rng: random.Random) -> Drawn:
    number = rng.randint(2, 3)
    return [
        f"Write exactly {number} paragraphs and put *** between them.",
        f"I want {number} paragraphs, separated by ***.",
    ], {"num_paragraphs": number}


def _first_word(rng: random.Random) -> Drawn:
    word = rng.choice(["however", "today", "imagine", "perhaps", "finally"])
    return [
        f"Write 2 paragraphs with an empty line between them; the second one starts with the word {word}.",
        f"Two paragraphs, divided by a blank line, please. Begin paragraph 2 with {word}.",
    ], {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": word}


def _placeholders(rng: random.Random) -> Drawn:
    number = rng.randint(1, 3)
    return [
        f"Leave at least {number} gaps to be filled in, as square brackets such as [name].",
        f"There must be {number} or more placeholders in square brackets, like [date].",
    ], {"num_placeholders": number}


def _postscript(rng: random.Random) -> Drawn:
    return [
        "Add a postscript that starts with P.S.",
        "Finish with a remark after P.S.",
        "Put a note at the end that begins with P.S.",
    ], {"postscript_marker": "P.S."}


def _bullets(rng: random.Random) -> Drawn:
    number = rng.randint(2, 4)
    return [
        f"Answer with exactly {number} bullet points, each on a line that starts with *",
        f"Give {number} bullets, no more and no fewer. Use lines such as: * This is a point.",
    ], {"num_bullets": number}


def _highlights(rng: random.Random) -> Drawn:
    number = rng.randint(1, 3)
    return [
        f"Highlight at least {number} parts with asterisks, *like this*.",
        f"Mark {number} or more phrases as *important* by putting asterisks around them.",
    ], {"num_highlights": number}


def _sections(rng: random.Random) -> Drawn:
    name = rng.choice(["Section", "Part"])
    return [
        f"Divide it into 2 sections and head them {name} 1 and {name} 2.",
        f"It must have two parts, which start with {name} 1 and {name} 2.",
    ], {"section_spliter": name, "num_sections": 2}


def _json(rng: random.Random) -> Drawn:
    return ["The whole answer must be valid JSON.", "Reply with JSON and with nothing else."], {}


def _title(rng: random.Random) -> Drawn:
    return [
        "Give it a title in double angular brackets, such as <<a new day>>.",
        "Start with a title, written as <<title>>.",
    ], {}


def _two(rng: random.Random) -> Drawn:
    return [
        "Give two different answers, and separate them with six asterisks: ******",
        "I want two versions with ****** between them.",
    ], {}


def _ending(rng: random.Random) -> Drawn:
    phrase = rng.choice(ENDINGS)
    return [
        f'End with exactly these words: "{phrase}"',
        f'The last sentence must be "{phrase}" and nothing may follow it.',
    ], {"end_phrase": phrase}


def _quoted(rng: random.Random) -> Drawn:
    return [
        "Put the whole answer in double quotation marks.",
        'Begin and end your answer with the character ".',
    ], {}


def _capitals(rng: random.Random) -> Drawn:
    return ["Write in English and in capital letters only.", "USE ONLY CAPITAL LETTERS, in English."], {}


def _lower(rng: random.Random) -> Drawn:
    return ["Write in English, in lower case only.", "Do not use any capital letters; answer in English."], {}


def _capital_words(rng: random.Random) -> Drawn:
    number = rng.randint(2, 4)
    return [
        f"At least {number} words should be in ALL CAPITALS.",
        f"Shout {number} or more words by writing them in capital letters.",
    ], {"capital_frequency": number, "capital_relation": "at least"}


def _no_comma(rng: random.Random) -> Drawn:
    return ["Do not use any commas.", "Avoid commas altogether."], {}


KINDS: dict[str, Callable[[random.Random], Drawn]] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "length_constraints:number_words": _short,
    "length_constraints:number_sentences": _few_sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two,
    "startend:end_checker": _ending,
    "startend:quotation": _quoted,
    "change_case:english_capital": _capitals,
    "change_case:english_lowercase": _lower,
    "change_case:capital_word_frequency": _capital_words,
    "punctuation:no_comma": _no_comma,
}
"""All kinds but three, for which a topic leaves no room: a constrained answer, a repeated prompt, another language."""
SHAPES = (
    *("detectable_format:json_format", "combination:two_responses", "length_constraints:number_paragraphs"),
    *("length_constraints:nth_paragraph_first_word", "detectable_format:number_bullet_lists"),
    *("detectable_format:multiple_sections",),
)
"""Each decides the shape of the whole answer: an answer has one."""
CASES = (
    *("change_case:english_capital", "change_case:english_lowercase", "change_case:capital_word_frequency"),
    *("detectable_content:postscript", "startend:end_checker", "length_constraints:nth_paragraph_first_word"),
)
"""Each decides which letters are capital, or asks for words that have some."""
ENDS = ("detectable_content:postscript", "startend:end_checker", "startend:quotation", "detectable_format:json_format")
"""Each decides how the answer begins or ends."""
CLASHES = {frozenset(pair) for group in (SHAPES, CASES, ENDS) for pair in combinations(group, 2)} | {
    frozenset(pair)
    for pair in (
        ("detectable_format:json_format", "detectable_format:title"),
        ("detectable_format:json_format", "punctuation:no_comma"),
        ("length_constraints:number_words", "combination:two_responses"),
        ("length_constraints:number_sentences", "length_constraints:number_paragraphs"),
        ("length_constraints:number_sentences", "detectable_format:number_bullet_lists"),
    )
}

FORMS = {
    "length_constraints:number_paragraphs": ["dividers"],
    "detectable_content:number_placeholders": ["placeholders"],
    "detectable_content:postscript": ["postscript"],
    "detectable_format:number_bullet_lists": ["bullets"],
    "detectable_format:number_highlighted_sections": ["highlights"],
    "detectable_format:multiple_sections": ["sections"],
    "detectable_format:json_format": ["json", "placeholders"],
    "detectable_format:title": ["title"],
    "combination:two_responses": ["dividers"],
    "startend:quotation": ["quotation"],
    "change_case:english_capital": ["case"],
    "change_case:english_lowercase": ["case"],
}
"""Which form of `implicit:plain_form` a kind asks for; the others ask for none."""


def _some(topic: str) -> str:
    """A few sentences: after a single one the model goes on in its own way."""
    return f"Many people think about {topic}. It takes some time, and a friend may help. Begin with a small step."


Hint = Callable[[str, dict[str, Any]], str]
HINTS: dict[str, Hint] = {
    "length_constraints:number_paragraphs": lambda topic, given: " *** ".join(
        [f"A paragraph about {topic}.", "Another one.", "The last one."][: given["num_paragraphs"]]
    ),
    "detectable_format:json_format": lambda topic, _: f'{{"topic": "{topic}", "text": "Many people like it."}}',
    "combination:two_responses": lambda topic, _: f"A text about {topic}. ****** Another text about {topic}.",
    "startend:end_checker": lambda topic, given: f"A text about {topic}. {given['end_phrase']}",
    "startend:quotation": lambda topic, _: f'"{_some(topic)}"',
    "change_case:english_capital": lambda topic, _: _some(topic).upper(),
    "change_case:english_lowercase": lambda topic, _: _some(topic).lower(),
}
"""What an answer might look like, for kinds that the model does not follow by itself: what is never sampled right is
never learnt. Some of the samples see it; what is trained on does not."""


def draw(kind: str, rng: random.Random) -> Instruction:
    """An instruction of a kind, with arguments and wording drawn."""
    wordings, arguments = KINDS[kind](rng)
    return Instruction(kind, rng.choice(wordings), arguments)
