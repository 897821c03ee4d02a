"""Checkable instructions: each of IFEval's 25 has responses that follow it and responses that do not."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.algorithms.checks import CHECKS, arguments_of, follows

LESS, LEAST = "less than", "at least"
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    (
        "keywords:existence",
        {"keywords": ["cat", "c++"]},
        ["A Category of C++ books", "c++ and CAT"],
        ["a cat and ccc", "C++"],
    ),
    ("keywords:frequency", {"keyword": " Cat ", "frequency": 2, "relation": LEAST}, ["cat, concat"], ["one cat", ""]),
    ("keywords:frequency", {"keyword": "cat", "frequency": 2, "relation": LESS}, ["a cat", "dog"], ["cat cat"]),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["art", "c++"]},
        ["a party in c", "arts", "xc++"],
        ["Modern ART.", "I like C++, too", "art"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "A", "let_frequency": 3, "let_relation": LEAST},
        ["banana", "AaA"],
        ["data", ""],
    ),
    ("keywords:letter_frequency", {"letter": "#", "let_frequency": 1, "let_relation": LESS}, ["a"], ["# a"]),
    (
        "language:response_language",
        {"language": "de"},
        ["Das Wetter ist heute wirklich sehr schön.", "DAS WETTER IST HEUTE WIRKLICH SEHR SCHÖN."],
        ["The weather is really nice today."],
    ),
    (
        "language:response_language",
        {"language": "zh-cn"},
        ["今天天气很好，我们一起去公园散步吧。"],
        ["今日はとても天気がいいですね。"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": LEAST},
        ["One. Two", "Really?! Yes."],
        ["One, two", "Mr. Smith left."],
    ),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": LESS}, ["Only one."], ["One. Two."]),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a *** b", "a\n***\nb\n***", "***a***b"],
        ["a\n\nb"],
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 3}, ["a***b***c"], ["a***b", "a*** ***b***c"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": LEAST}, ["well-known fact"], ["two words"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": LESS}, ["two words."], ["three words here"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Then"},
        ["First.\n\nthen, more", 'a\nb\n\n"THEN" it', "a\n\nThen's"],
        ["Then\n\nnot", "a\n\nthen\n\nc", "a\nthen", "a\n\nthenceforth"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[name] and [address]", "[a][b][c]"],
        ["[name]", "[a\nb] [c]", "(a) (b)"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye\n\nP.S. more", "p. s. more"],
        ["PS more", "P.P.S"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["P. P. S more", "p.p.s"], ["P.S. more"]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "Here:\n - a\n- b\nDone"],
        ["* a", "* a\n* b\n* c", "**a**\n**b**", "a * b * c"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", " I think: My answer is maybe. "],
        ["yes", "my answer is no."],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*one* and *two*", "**one** and *two*"],
        ["**one**", "*one* ** **", "*one\ntwo* *"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Day", "num_sections": 2},
        ["Day 1\na\nDay 2\nb", "Day1 Day2 Day 3"],
        ["Day one, Day two", "Day 1", "day 1 day 2"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "S.1(", "num_sections": 1},
        ["S.1( 5"],
        ["SX1 5"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": [1, 2]}', '```json\n{"a": 1}\n```', '```\n"a"\n```'],
        ["{'a': 1}", 'Here: {"a": 1}', "```json\n```"],
    ),
    ("detectable_format:title", {}, ["<<Joy>>\nText", "a <<b c>> d"], ["<Joy>", "<< >>", "<<a\nb>>"]),
    (
        "combination:two_responses",
        {},
        ["a ****** b", "******\na\n******\nb\n******"],
        ["a", "a ****** a", "a******b******c", "a****** ******b"],
    ),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi"}, ["say HI\n\nhi", " Say hi."], ["Hi. Say hi", "Ask"]),
    ("combination:repeat_prompt", {}, ["the last turn. Yes."], ["Say hi", "turn"]),
    (
        "startend:end_checker",
        {"end_phrase": "Any questions?"},
        ["So. any Questions? ", '"So. Any questions?"'],
        ["Any questions? No.", "Questions?"],
    ),
    ("startend:quotation", {}, ['"all of it"', ' "a" and "b" '], ['"', 'say "hi"', '"hi" he said']),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": LEAST},
        ["WELL-KNOWN U.S. facts", "I DO"],
        ["Well OK 12 34", "STATE-OF-THE-ART"],
    ),
    ("change_case:capital_word_frequency", {"capital_frequency": 1, "capital_relation": LESS}, ["Ok"], ["OK"]),
    (
        "change_case:english_capital",
        {},
        ["THE ANSWER TO THIS QUESTION IS 42."],
        ["The answer is yes.", "DAS WETTER IST HEUTE WIRKLICH SEHR SCHÖN.", "42"],
    ),
    (
        "change_case:english_lowercase",
        {},
        ["the answer to this question is 42."],
        ["The answer is yes.", "das wetter ist heute wirklich sehr schön.", "42"],
    ),
    ("punctuation:no_comma", {}, ["no such thing; none"], ["one, two"]),
]


@pytest.mark.parametrize(("instruction", "arguments", "good", "bad"), CASES)
def test_a_check_tells_what_follows_it(
    instruction: str, arguments: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    for response in good:
        assert follows(instruction, arguments, response, "The last turn"), response
    for response in bad:
        assert not follows(instruction, arguments, response, "The last turn"), response


def test_all_25_instructions_of_the_paper_are_checked() -> None:
    theirs = {name for name in CHECKS if not name.startswith("implicit:")}
    assert {instruction for instruction, *_ in CASES} == theirs
    assert len(theirs) == 25


@given(st.sampled_from(CASES), st.text() | st.text("aA .*#[]<>\"'\n-P.S,{}`1§。"))
def test_a_check_answers_or_says_why_it_cannot(case: tuple[str, dict[str, Any], Any, Any], response: str) -> None:
    instruction, arguments, *_ = case
    if instruction == "language:response_language" and not any(character.isalpha() for character in response):
        with pytest.raises(ValueError, match="no letters"):
            follows(instruction, arguments, response, "The last turn")
    else:
        assert follows(instruction, arguments, response, "The last turn") in (True, False)


@given(st.text("ab(.*+?[\\", min_size=1, max_size=4).filter(str.strip), st.text("ab(.*+?[\\ ", max_size=12))
def test_keywords_are_plain_text(keyword: str, response: str) -> None:
    found = keyword.strip() in response
    assert follows("keywords:existence", {"keywords": [keyword]}, response, "") == found
    once = {"keyword": keyword, "frequency": 1, "relation": LEAST}
    assert follows("keywords:frequency", once, response, "") == found


@pytest.mark.parametrize(
    ("instruction", "given", "message"),
    [
        ("keywords:presence", {}, "unknown instruction 'keywords:presence'; known are change_case:"),
        ("keywords:existence", {}, "argument 'keywords' of keywords:existence: Field required"),
        ("keywords:existence", {"keywords": None}, "'keywords' of keywords:existence: Field required"),
        ("keywords:existence", {"keywords": "cat"}, "'keywords' of keywords:existence: Input should be a valid list"),
        ("keywords:existence", {"keywords": []}, "at least 1 item"),
        ("keywords:existence", {"keywords": [" "]}, "'keywords.0' of keywords:existence"),
        ("keywords:letter_frequency", {"letter": "ab", "let_frequency": 1, "let_relation": LESS}, "'letter'"),
        ("length_constraints:number_words", {"num_words": 5, "relation": "at most"}, "'less than' or 'at least'"),
        ("length_constraints:number_words", {"num_words": -1, "relation": LESS}, "greater than or equal to 0"),
        ("length_constraints:number_words", {"num_words": 1.5, "relation": LESS}, "'num_words'"),
        ("language:response_language", {"language": "German"}, "'language'"),
        ("punctuation:no_comma", {"num_words": 3}, "'num_words' of punctuation:no_comma: Extra inputs"),
    ],
)
def test_arguments_that_nothing_could_follow_are_refused(instruction: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        arguments_of(instruction, given)
    assert message in str(caught.value)


def test_null_arguments_are_removed_and_whole_numbers_are_integers() -> None:
    given = {"num_words": 3.0, "relation": LESS, "keywords": None}
    assert arguments_of("length_constraints:number_words", given) == {"num_words": 3, "relation": LESS}
    assert arguments_of("combination:repeat_prompt", {"prompt_to_repeat": None}) == {}
