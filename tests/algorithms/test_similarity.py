"""ROUGE-L and the greedy filters against their definitions, on texts made to be alike."""

import random
from collections.abc import Callable
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from stages.algorithms import similarity
from stages.algorithms.similarity import Match, near_duplicates, rouge_l, shingles, similar, words

VOCABULARY = ["the", "the", "a", "write", "poem", "about", "cats", "dogs", "and", "sums", "42"]
TEXTS = st.lists(st.lists(st.sampled_from(VOCABULARY), max_size=9).map(" ".join), max_size=8)
LIMITS = st.sampled_from([0.0, 0.3, 0.5, 2 / 3, 0.7, 0.9, 1.0])


def lcs(one: list[str], other: list[str]) -> int:
    """The textbook recurrence."""
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, first in enumerate(one):
        for j, second in enumerate(other):
            table[i + 1][j + 1] = table[i][j] + 1 if first == second else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


def plain_rouge_l(one: str, other: str) -> float:
    m, n = words(one), words(other)
    return 2 * lcs(m, n) / (len(m) + len(n)) if m and n else 0.0


def plain_jaccard(one: str, other: str) -> float:
    m, n = set(shingles(one)), set(shingles(other))
    return len(m & n) / len(m | n) if m and n else 0.0


def plain_filter(
    given_texts: list[str], new: list[str], limit: float, measure: Callable[[str, str], float]
) -> dict[int, Match]:
    """Compare each new text with all that is kept, one by one."""
    kept, dropped = dict(enumerate(given_texts)), {}
    for number, text in enumerate(new):
        value, first = max(((measure(other, text), -key) for key, other in kept.items()), default=(0.0, 0))
        if value > limit:
            dropped[number] = Match(-first, value)
        else:
            kept[len(given_texts) + number] = text
    return dropped


@given(TEXTS, TEXTS, LIMITS, st.sampled_from([1, 3, 100]))
def test_the_rouge_l_filter_is_the_plain_greedy_one(
    given_texts: list[str], new: list[str], limit: float, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "BLOCK", block)
        assert similar(given_texts, new, limit) == plain_filter(given_texts, new, limit, plain_rouge_l)


@given(TEXTS, TEXTS, LIMITS, st.sampled_from([1, 3, 100]))
def test_the_near_duplicate_filter_is_the_plain_greedy_one(
    given_texts: list[str], new: list[str], limit: float, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "BLOCK", block)
        assert near_duplicates(given_texts, new, limit) == plain_filter(given_texts, new, limit, plain_jaccard)


@pytest.mark.parametrize("limit", [0.5, 0.7])
def test_the_filter_is_exact_where_rare_and_frequent_words_mix(limit: float) -> None:
    draw = random.Random(0)
    frequencies = [1 / rank for rank in range(1, 201)]
    texts: list[list[str]] = []
    for _ in range(160):
        text = [f"w{number}" for number in draw.choices(range(200), frequencies, k=draw.randint(3, 30))]
        if texts and draw.random() < 0.5:
            changed = draw.random() * 0.6
            text = [other if draw.random() < changed else word for word, other in zip(draw.choice(texts), text * 9)]  # noqa: B905
        texts.append(text)
    joined = [" ".join(text) for text in texts]
    expected = plain_filter(joined[:80], joined[80:], limit, plain_rouge_l)
    assert 5 < len(expected) < 75
    assert similar(joined[:80], joined[80:], limit) == expected


@given(st.text(alphabet=st.characters(max_codepoint=127)), st.text(alphabet=st.characters(max_codepoint=127)))
def test_rouge_l_is_that_of_rouge_score_on_ascii(one: str, other: str) -> None:
    expected = RougeScorer(["rougeL"], use_stemmer=False).score(one, other)["rougeL"].fmeasure
    assert rouge_l(one, other) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.sampled_from(VOCABULARY)).map(" ".join), st.lists(st.sampled_from(VOCABULARY)).map(" ".join))
def test_rouge_l_is_that_of_rouge_score_on_repeated_words(one: str, other: str) -> None:
    expected = RougeScorer(["rougeL"], use_stemmer=False).score(one, other)["rougeL"].fmeasure
    assert rouge_l(one, other) == pytest.approx(expected, abs=1e-12)


def test_words_of_every_script_are_words() -> None:
    assert words("Don't  STOP_me, now!") == ["don", "t", "stop", "me", "now"]
    assert words("Ünïcode ＡＢＣ１") == ["ünïcode", "abc1"]
    assert words("हिन्दी में लिखो") == ["हिन्दी", "में", "लिखो"]
    assert words("GPT写诗 пиши стих") == ["gpt", "写", "诗", "пиши", "стих"]
    assert words("🙂 …") == []


def test_a_dropped_text_drops_no_other() -> None:
    chain = ["a b c d e f g h i j", "a b c d e f g h x y", "a b c d e f z z x y"]
    assert [round(plain_rouge_l(one, other), 9) for one, other in permutations(chain, 2)] == [
        0.8,
        0.6,
        0.8,
        0.8,
        0.6,
        0.8,
    ]
    assert similar([], chain, 0.7) == {1: Match(0, 0.8)}


def test_the_limit_itself_is_allowed() -> None:
    assert similar(["a b c d e f g x y z"], ["a b c d e f g u v w"], 0.7) == {}
    assert similar(["a b c d e f g h y z"], ["a b c d e f g h v w"], 0.7) == {0: Match(0, 0.8)}


def test_near_duplicates_are_found_whatever_the_order_of_their_parts() -> None:
    first, second = (" ".join(f"{letter}{number}" for number in range(60)) for letter in "xy")
    assert rouge_l(f"{first} {second}", f"{second} {first}") == 0.5
    assert near_duplicates([f"{first} {second}"], [f"{second} {first}"], 0.9) == {0: Match(0, 116 / 120)}
