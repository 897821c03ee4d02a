"""Sentences are counted, and languages told, as people do it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.algorithms import prose


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", 0),
        ("...", 0),
        ("No end", 1),
        ("One. Two. Three", 3),
        ("all lower. as well.", 2),
        ("Wait... what?! Yes.", 3),
        ('He said "Go." Then he left.', 2),
        ("**Bold.** (Aside.) _Done!_", 3),
        ("Dr. J. Smith, e.g. at 3.5 percent, agrees.", 1),
        ("Who? You and I. Nobody else.", 3),
        ("Steps:\n1. Open it.\n2) Close it.\n- Leave", 3),
        ("A heading\n\nand its sentence.", 1),
        ("C'est vrai ! Non ?", 2),
        ("今天很好。我们走吧！", 2),
        ("यह पहला है। यह दूसरा है।", 2),
    ],
)
def test_sentences_are_counted_by_their_ends(text: str, sentences: int) -> None:
    assert prose.count_sentences(text) == sentences


@given(st.lists(st.sampled_from(["One.", "Two two!", "And (three)?", "Vier…"]), max_size=8), st.sampled_from(" \n\t"))
def test_sentences_add_up(parts: list[str], space: str) -> None:
    assert prose.count_sentences(space.join(parts)) == len(parts)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "I would like to tell you something about the history of this town."),
        ("fr", "Je voudrais vous raconter quelque chose sur l'histoire de cette ville."),
        ("es", "Me gustaría contarles algo sobre la historia de esta ciudad."),
        ("hi", "मैं आपको इस शहर के इतिहास के बारे में कुछ बताना चाहता हूँ।"),
        ("fi", "Haluaisin kertoa teille jotain tämän kaupungin historiasta."),
    ],
)
def test_the_language_of_a_text_is_told_in_any_case(language: str, text: str) -> None:
    assert [prose.language_of(variant) for variant in (text, text.upper(), text.lower())] == [language] * 3
