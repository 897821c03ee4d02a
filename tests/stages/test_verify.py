"""Checkable instructions: each of IFEval's 25 has responses that follow it and responses that do not."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import verify
from stages.algorithms import prose
from stages.algorithms.ifeval import CHECKS, arguments_of, follows
from stages.contracts.artifacts import provenance, read, write
from stages.contracts.errors import StageError
from stages.contracts.ids import prompt_id
from stages.contracts.schema import frame
from stages.tables import CANDIDATES, PROMPTS, VERIFICATIONS

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
    assert {instruction for instruction, *_ in CASES} == set(CHECKS)
    assert len(CHECKS) == 25


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


# --- the stage ----------------------------------------------------------------------------------------------------

NO_COMMA = {"id": "punctuation:no_comma", "arguments": {}}
GERMAN = {"id": "language:response_language", "arguments": {"language": "de"}}
REPEAT = {"id": "combination:repeat_prompt", "arguments": {}}


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def run(
    folder: Path, given: list[tuple[list[dict[str, str]], list[dict[str, Any]], list[str]]], reason: str = "stop"
) -> pl.DataFrame:
    """Write prompts (messages, checks) with their responses, run the stage, and read what it found."""
    prompts, candidates = [], []
    for row, (messages, checks, responses) in enumerate(given, start=1):
        key = prompt_id(messages)
        text = json.dumps(checks) if checks else None
        prompts += [
            {"prompt_id": key, "messages": messages, "split": "train", "checks": text, "source": "s", "row": row}
        ]
        candidates += [
            {"prompt_id": key, "candidate_id": f"{key}-1-{sample}", "iteration": 1, "sample": sample, "seed": 0,
             "text": response, "token_ids": [], "tokens": 0, "finish_reason": reason}
            for sample, response in enumerate(responses)
        ]  # fmt: skip
    paths = {name: folder / f"{name}.parquet" for name in ("prompts", "candidates", "output")}
    write(frame(PROMPTS, prompts), paths["prompts"], PROMPTS, {})
    write(frame(CANDIDATES, candidates), paths["candidates"], CANDIDATES, {})
    verify.main(verify.Args(**paths))
    return read(paths["output"], VERIFICATIONS)


def test_each_candidate_has_a_row_for_each_instruction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checked, plain = [turn("user", "Sprich")], [turn("user", "Hi")]
    good, bad = "Das Wetter ist heute wirklich sehr schön.", "No, this is not the language."
    found = run(tmp_path, [(checked, [NO_COMMA, GERMAN], [good, bad]), (plain, [], ["a, b"])])
    key = prompt_id(checked)
    assert found.rows() == [
        (key, f"{key}-1-0", 0, "punctuation:no_comma", True, None),
        (key, f"{key}-1-0", 1, "language:response_language", True, None),
        (key, f"{key}-1-1", 0, "punctuation:no_comma", False, None),
        (key, f"{key}-1-1", 1, "language:response_language", False, None),
    ]
    assert provenance(tmp_path / "output.parquet")["stage"] == "verify"
    assert "2 of 3 candidates checked, 2 of 4 checks passed, 0 not carried out" in capsys.readouterr().err


def test_a_check_that_raises_is_failed_and_stays_in_the_count(tmp_path: Path) -> None:
    """D26: it was left out of the count."""
    found = run(tmp_path, [([turn("user", "Zahl?")], [NO_COMMA, GERMAN, {"id": "new", "arguments": {}}], ["42"])])
    assert found["passed"].to_list() == [True, False, False]
    reasons = found["detail"].to_list()
    assert reasons[0] is None
    assert reasons[1] == "ValueError: the text has no letters to tell its language by"
    assert reasons[2].startswith("ValueError: unknown instruction 'new'")


def test_json_too_deep_to_read_is_failed(tmp_path: Path) -> None:
    check = {"id": "detectable_format:json_format", "arguments": {}}
    found = run(tmp_path, [([turn("user", "JSON?")], [check], ["[" * 200_000])])
    assert found["passed"].to_list() == [False]


@pytest.mark.parametrize(("text", "reason"), [("", "stop"), (" \n", "length"), ("fine", "error")])
def test_empty_and_failed_responses_follow_nothing(tmp_path: Path, text: str, reason: str) -> None:
    found = run(tmp_path, [([turn("user", "Hi")], [NO_COMMA, REPEAT], [text])], reason)
    assert found.select("passed", "detail").rows() == [(False, "there is no response")] * 2


def test_the_prompt_that_a_check_needs_is_the_last_user_turn_alone(tmp_path: Path) -> None:
    """D26: it got the whole conversation."""
    messages = [turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Hello"), turn("user", "And now?")]
    responses = ["And now? Tea.", "Hi And now? Tea.", "User: Hi\n\nAssistant: Hello\n\nUser: And now? Tea."]
    assert run(tmp_path, [(messages, [REPEAT], responses)])["passed"].to_list() == [True, False, False]


def test_without_checks_the_table_is_empty(tmp_path: Path) -> None:
    assert run(tmp_path, [([turn("user", "Hi")], [], ["Hello"])]).is_empty()


def test_candidates_of_unknown_prompts_are_refused(tmp_path: Path) -> None:
    run(tmp_path, [([turn("user", "Hi")], [NO_COMMA], ["Hello"])])
    write(frame(PROMPTS, []), tmp_path / "none.parquet", PROMPTS, {})
    paths = {"prompts": tmp_path / "none.parquet", "candidates": tmp_path / "candidates.parquet"}
    with pytest.raises(StageError, match=r"none.parquet: no prompt [0-9a-f]{16}"):
        verify.main(verify.Args(**paths, output=tmp_path / "output.parquet"))
