"""Mutation fuzzing of the parsers of scores and winners, of redaction, and of the ingest of chat and ranked records.

    .venv/bin/python tests/fuzz.py --inputs 1000000 --seed 0

The same seed gives the same inputs. The first input that breaks a promise ends the run and is printed; what is promised
is listed in docs/fuzzing.md. `tests/algorithms/test_parsing_any_text.py` runs a short version.
"""

import argparse
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from stages.algorithms.checks import CHECKS
from stages.algorithms.parsing import LENIENT, parse_score, parse_winner, redact
from stages.algorithms.verdict_patterns import last_match, score_grammar
from stages.sources import chat_records as conversations
from stages.sources import openassistant
from stages.sources import ranked_records as ranking
from stages.sources.chat_records import FormatError, decode

LOW, HIGH = 0, 5
OWN_SCORES = [r"(?:none|{{ score }})", r"\[{{ score }}/5\]", r"(?=\s{{ score }})", r"(?i)points?\W+{{ score }}"]
OWN_WINNER = r"\[\[{{ winner }}\]\]"

DIGITS = "0459４５٣३൪²½Ⅳ四"
MARKS = " \t\n\r.．,，:：;!?*_`<>[](){}/／-−–+=#|\"'\u00a0\u2028\u200b"
LETTERS = "sSſcoOrepintIİıwnkKAabBZé漢😀\ud800\udfff\0"
SCORES = [
    *("Score", "score:", "**Score:** ", "Score: <", "SCORE", "ſcore", "points ", "poİnts", "Points:", "\nScore: "),
    *("4", "4.5", "5/5", " out of ", "/10", "e9", "1e-400", "9" * 400, "-1", "−1", "４．５", "٣", ".\n", "Score: 4.5."),
    *("Score (0-5): 4", "Score (0 to 5): 4", "**Score (0–5):** 3", "Score [0-5] = 3", "Score (1): 4", " (0-5)", "):"),
    *(
        "Score: 1 + 1 + 0 = 2",
        "Total: 3",
        "<score>4</score>",
        "\\boxed{4}",
        "[[4]]",
        '{"score": 4}',
        "I give it a 4.",
        "★★★",
    ),
    *("<think>", "</think>", "```", "> ", "<|eot_id|>", "~~3~~", "(4/5)", "Score: ", "a score of 4", " = ", "maybe "),
    *("Score: 3-4", "Score: 3 to 4", "Score: 4 or 5", "3/5 to 4/5", " - ", "–", " to ", " or ", "**3** - **4**"),
]
WINNERS = [
    *("Winner", "winner: ", "wınner", "WİNNER", "**Winner:** ", "Judgement ", "judgment ", "ment", "A", "b", "[[A]]"),
    *("**B**", " a tie", "A because", ".", "!", "[Judgement A | Judgement B]", "A/B", "Judgement A and Judgement B"),
    *("Winner: Judgement A or B", "Winner: Judgement A = Judgement B", " | ", " / ", " and ", " or ", " = ", " vs. "),
]
JSON = [
    *('{"', '":', "[", "]", "{", "}", ",", '"', "null", "true", "NaN", "-1e999", "\\ud800", "\\u0000", "\ufeff", "é"),
    *("messages", "conversations", "prompt", "system", "mask", "role", "content", "from", "value", "user", "assistant"),
    "<|start_header_id|>user<|end_header_id|>",
]
HUGE = ["9" * 5000, "[" * 3000, '{"a":' * 3000]
INSTRUCTIONS = {"instruction_id_list": ["keywords:existence", "combination:repeat_prompt", "punctuation:no_comma"]}
ARGUMENTS = [{"keywords": ["a", "b"], "num_words": None}, {"prompt_to_repeat": "Hi"}, None]
RECORDS: list[Any] = [
    {"prompt": "Hi", "system": ""},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
    {"system": "Be brief.", "mask": "User", "conversations": [{"from": "User", "value": "1+1?"}]},
    {"prompt": "Hi", "verifier_args": INSTRUCTIONS | {"instruction_kwargs": ARGUMENTS}},
    {"prompt": "Hi", "kwargs": ARGUMENTS} | INSTRUCTIONS,
]
RANKED: list[Any] = [
    {"prompt": "Hi", "answers": [{"text": "Hello", "rank": 0}, {"text": "Hello ", "rank": 1}, {"text": "", "rank": 1}]},
    {"prompt": "Hi", "answers": [{"text": "a", "quality": 4.5}, {"text": "b", "quality": 1}]},
]
MESSAGE = {"role": "assistant", "lang": "en", "deleted": False, "review_result": True}
REPLIES = [MESSAGE | {"text": text, "rank": rank} for text, rank in (("Hello", 0), ("Go", 1), ("?", None))]
PROMPT = MESSAGE | {"role": "prompter", "text": "Hi", "replies": REPLIES}
TREES: list[Any] = [{"message_tree_id": "t", "tree_state": "ready_for_export", "prompt": PROMPT}]
NAMES = [
    *(*conversations.FIELDS, "role", "content", "from", "value", "instruction_kwargs", "keywords", "relation"),
    *("num_words", "answers", "text", "rank", "quality", "replies", "lang", "deleted", "review_result", "tree_state"),
]
VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 1e308, float("nan"), float("inf"), 10**400, b"x", [], {}, ()),
    *("", " ", "a", "User", "gpt", "a\ud800", "en", "prompter", "assistant", "ready_for_export", "at least", *CHECKS),
]


def text(rng: random.Random, fragments: list[str], corpus: list[str]) -> str:
    """A new text, or a mutation of one from `corpus`."""
    made = rng.choice(corpus) if corpus and rng.random() < 0.5 else ""
    for _ in range(rng.randint(1, 6)):
        at = rng.randint(0, len(made))
        kind = rng.random()
        if kind < 0.55:
            made = made[:at] + rng.choice(fragments) + made[at:]
        elif kind < 0.8:
            made = made[:at] + rng.choice(rng.choice((DIGITS, MARKS, LETTERS))) + made[at:]
        elif kind < 0.85:
            made = made[:at] + chr(rng.randrange(0x110000)) + made[at:]
        elif kind < 0.95:
            made = made[:at] + made[at + rng.randint(1, 4) :]
        else:
            made = made[at:] + rng.choice(corpus or fragments)
    return made[:4000]


def remember(rng: random.Random, corpus: list[Any], item: Any) -> None:
    """Add what got past the first check, if it is not too long; from 500 items on, in the place of another one."""
    if len(item) > 300:
        return
    if len(corpus) < 500:
        corpus.append(item)
    else:
        corpus[rng.randrange(500)] = item


def record(rng: random.Random, depth: int = 0, records: list[Any] = RECORDS) -> Any:
    """A JSON-like value: a known record with parts replaced, or something arbitrary."""
    if depth == 0 and rng.random() < 0.8:
        known = rng.choice(records)
        return {name: mutated(rng, value, 1) for name, value in known.items()} | (
            {rng.choice(NAMES): record(rng, 2)} if rng.random() < 0.5 else {}
        )
    kind = rng.random()
    if depth > 3 or kind < 0.6:
        return rng.choice(VALUES)
    if kind < 0.8:
        return [record(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    return {rng.choice(NAMES): record(rng, depth + 1) for _ in range(rng.randint(0, 3))}


def mutated(rng: random.Random, value: Any, depth: int) -> Any:
    """`value` with each of its parts kept or, one time in twelve, replaced."""
    if rng.random() < 0.08:
        return record(rng, depth + 1)
    if isinstance(value, list):
        return [mutated(rng, item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {name: mutated(rng, item, depth + 1) for name, item in value.items() if rng.random() > 0.03}
    return value


def check_score(made: str) -> str:
    """The promises of a score in a text under the named grammars; returns its status in the lenient one."""
    _check_value(made, "strict")
    found = last_match(score_grammar("strict"), "score", made)
    assert not found or "\n" not in found[0], "a strict verdict is a line of its own"
    return _check_value(made, LENIENT)


def check_own_score(made: str) -> str:
    """The same for patterns of one's own."""
    statuses = [_check_value(made, pattern) for pattern in OWN_SCORES]
    return min(statuses, key=["ok", "out_of_range", "no_match"].index)


def check_winner(made: str) -> str:
    """The promises of a winner in a text."""
    for pattern in (LENIENT, OWN_WINNER):
        status, value = parse_winner(made, "stop", pattern)
        assert value in ({"a", "b"} if status == "ok" else {None}), "a winner is a or b"
    return parse_winner(made, "stop", LENIENT).status


def check_line(line: bytes) -> str:
    """Ingest of a line of JSONL: a conversation that a file can hold, or a FormatError."""
    return _check_ingest(lambda made: conversations.parse(decode(made)), line)


def check_record(made: Any) -> str:
    """Ingest of a record, as a Parquet file may hold it."""
    return _check_ingest(conversations.parse, made)


def check_ranked(made: Any) -> str:
    """Ingest of a record of ranked answers in the plain form."""
    return _check_ranked(ranking.parse, made)


def check_tree(made: Any) -> str:
    """Ingest of an OpenAssistant tree: a ranked prompt, a reason to drop it, or a FormatError."""
    return _check_ranked(lambda tree: openassistant.parse(tree, "en"), made)


def _check_value(made: str, pattern: str) -> str:
    status, value, span = parse_score(made, "stop", pattern, LOW, HIGH)
    assert status in ("ok", "no_match", "out_of_range"), "unknown status"
    assert (value is not None) == (status == "ok"), "a value without `ok`, or the other way round"
    assert value is None or LOW <= value <= HIGH, "a value out of range"
    assert (span is None) == (status == "no_match"), "a span without a match, or the other way round"
    assert span is None or 0 <= span[0] <= span[1] <= len(made), "the span leaves the text"
    hidden = redact(made, pattern)
    if pattern == LENIENT:
        assert value is None or parse_score(hidden, "stop", pattern, LOW, HIGH).value != value, "the score can be read"
    else:
        assert last_match(score_grammar(pattern), "score", hidden) is None, "a score, or a range, shows"
        assert redact(hidden, pattern) == hidden, "redaction is not finished"
    return status


def _check_ingest(read: Callable[[Any], Any], made: Any) -> str:
    try:
        conversation = read(made)
    except FormatError:
        return "refused"
    assert conversation.messages[-1]["role"] == "user", "a prompt ends in a user turn"
    stored = [conversation.messages, conversation.answer, conversation.checks]
    json.dumps(stored, ensure_ascii=False).encode("utf-8")
    return "ok"


def _check_ranked(read: Callable[[Any], ranking.RankedPrompt | ranking.Drop], made: Any) -> str:
    try:
        prompt = read(made)
    except FormatError:
        return "refused"
    if isinstance(prompt, ranking.Drop):
        return "dropped"
    cleaned = ranking.clean(prompt, max_characters=1000)
    gone, reasons = len(prompt.answers) - len(cleaned.answers), len(cleaned.dropped) - len(prompt.dropped)
    assert gone == reasons, "an answer goes without a reason"
    texts = sorted(answer.text.strip() for answer in cleaned.answers)
    assert texts == sorted({*texts} - {""}), "an empty answer is kept, or one twice"
    assert sorted(set(cleaned.ranks)) == list(range(len(set(cleaned.ranks)))), "ranks are skipped"
    json.dumps([prompt.messages, [[a.text, a.rank] for a in prompt.answers]], ensure_ascii=False).encode("utf-8")
    return "ok"


def line(rng: random.Random, corpus: list[bytes]) -> bytes:
    """Bytes of a line: a record as JSON with bytes changed, or JSON fragments."""
    if rng.random() < 0.4:
        made = text(rng, HUGE if rng.random() < 0.01 else JSON, []).encode("utf-8", "surrogatepass")
    else:
        made = rng.choice(corpus) if corpus and rng.random() < 0.5 else _dumped(record(rng))
        for _ in range(rng.randint(0, 3)):
            at = rng.randint(0, len(made))
            piece = bytes([rng.randrange(256)]) if rng.random() < 0.5 else rng.choice(JSON).encode()
            made = made[:at] + piece + made[at + rng.randint(0, 2) :]
    return made


def _dumped(made: Any) -> bytes:
    return json.dumps(made, default=str).encode()


def fuzz(inputs: int, seed: int) -> Counter[str]:
    """Check `inputs` inputs; returns how often each target ended how. Raises AssertionError that shows the input."""
    rng = random.Random(seed)
    scores: list[str] = []
    winners: list[str] = []
    lines: list[bytes] = []
    targets: list[tuple[str, list[Any], Callable[[Any], str], Callable[[], Any]]] = [
        ("score", scores, check_score, lambda: text(rng, SCORES, scores)),
        ("score", scores, check_score, lambda: text(rng, SCORES, scores)),
        ("own pattern", [], check_own_score, lambda: text(rng, SCORES, scores)),
        ("winner", winners, check_winner, lambda: text(rng, WINNERS, winners)),
        ("line", lines, check_line, lambda: line(rng, lines)),
        ("record", [], check_record, lambda: record(rng)),
        ("ranked", [], check_ranked, lambda: record(rng, records=RANKED)),
        ("tree", [], check_tree, lambda: record(rng, records=TREES)),
    ]
    ends: Counter[str] = Counter()
    for number in range(inputs):
        name, corpus, check, make = targets[number % len(targets)]
        made = make()
        try:
            end = check(made)
        except Exception as error:
            raise AssertionError(f"{name}, input {number} of seed {seed}: {made!r}: {error!r}") from error
        ends[f"{name}: {end}"] += 1
        if end not in ("no_match", "refused") and isinstance(made, str | bytes):
            remember(rng, corpus, made)
    return ends


def main() -> None:
    """Fuzz, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.perf_counter()
    ends = fuzz(options.inputs, options.seed)
    for name in sorted(ends):
        print(f"{ends[name]:>9}  {name}")
    print(f"{options.inputs} inputs in {time.perf_counter() - began:.0f} s, no promise broken", file=sys.stderr)


if __name__ == "__main__":
    main()
