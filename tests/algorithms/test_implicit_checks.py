"""Checks of what is expected of any answer, on texts whose fault is known."""

import pytest

from stages.algorithms.checks import arguments_of, follows
from stages.algorithms.checks.implicit import FORMS

PLAIN = "Foxes live in woods and fields.\n\nThey sleep by day - mostly - and hunt by night (2 * 3 hours)."
SHOWN = {
    "title": "<<On foxes>> They live in woods.",
    "postscript": "They live in woods. p.s. And in fields. P. S. too.",
    "placeholders": "Dear [name], foxes live in woods.",
    "highlights": "Foxes *live* in woods.",
    "bullets": "Foxes:\n* live in woods",
    "sections": "Part 1: foxes",
    "dividers": "Foxes.\n***\nWoods.",
    "json": '```json\n{"foxes": 1}\n```',
    "quotation": '"Foxes live in woods."',
    "case": "FOXES LIVE IN WOODS.",
}


def test_a_plain_answer_has_none_of_the_forms() -> None:
    assert follows("implicit:plain_form", {}, PLAIN, "")


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_told_and_may_be_allowed(form: str) -> None:
    others = [other for other in FORMS if other != form]
    assert not follows("implicit:plain_form", {}, SHOWN[form], "")
    assert FORMS[form](SHOWN[form])  # type: ignore[index]
    shown = [other for other in FORMS if FORMS[other](SHOWN[form])]
    assert follows("implicit:plain_form", {"allowed": shown}, SHOWN[form], "")
    assert not follows("implicit:plain_form", {"allowed": others}, SHOWN[form], "")


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match=r"argument 'allowed\.0' of implicit:plain_form"):
        arguments_of("implicit:plain_form", {"allowed": ["titles"]})


@pytest.mark.parametrize(
    ("text", "mentions"), [("Foxes hunt.", True), ("A FOX", True), ("An outfox", False), ("", False)]
)
def test_on_topic_is_told_by_the_beginnings_of_words(text: str, mentions: bool) -> None:
    assert follows("implicit:on_topic", {"words": ["fox", "c++"]}, text, "") is mentions


@pytest.mark.parametrize(
    ("text", "varied"),
    [
        (PLAIN, True),
        ("Foxes.", True),
        ("", True),
        ("Foxes ...........", True),  # eleven marks
        ("Foxes ............", False),
        ("* * * * * * * * * * * *", False),
        ("the fox saw the fox saw the fox saw the fox saw", False),  # 8 groups of four, 3 different ones
        ("a b c d e a b c d e", True),  # 7 groups, 5 different ones
    ],
)
def test_repetition_is_told_by_marks_and_groups_of_words(text: str, varied: bool) -> None:
    assert follows("implicit:no_repetition", {}, text, "") is varied
