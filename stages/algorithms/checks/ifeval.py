"""The 25 checkable instructions of IFEval (Zhou et al., 2023, arXiv 2311.07911): does a response follow one?

Each check is a pure function of the response and the instruction's arguments, registered under IFEval's id; the types
of its arguments say what ingest accepts. The meaning is that of the authors' strict evaluation, with these differences:
keywords and markers are plain text, never regular expressions; a missing argument is refused, not drawn at random; a
response whose language cannot be told fails; sentences and words are counted by `stages.algorithms.prose`.
"""

import json
import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from stages.algorithms import prose
from stages.algorithms.checks.registry import Text, Texts, register

Count = Annotated[int, Field(ge=0)]
Place = Annotated[int, Field(ge=1)]
Relation = Literal["less than", "at least"]
Letter = Annotated[str, StringConstraints(min_length=1, max_length=1, pattern=r"\S")]
Language = Annotated[str, StringConstraints(pattern=r"^[a-z]{2}(-[A-Za-z]+)?$")]

_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def _holds(count: int, relation: str, threshold: int) -> bool:
    return count < threshold if relation == "less than" else count >= threshold


# --- keywords -----------------------------------------------------------------------------------------------------


@register("keywords:existence")
def _existence(response: str, keywords: Texts) -> bool:
    return all(_occurrences(keyword, response) for keyword in keywords)


@register("keywords:frequency")
def _frequency(response: str, keyword: Text, frequency: Count, relation: Relation) -> bool:
    return _holds(_occurrences(keyword, response), relation, frequency)


@register("keywords:forbidden_words")
def _forbidden_words(response: str, forbidden_words: Texts) -> bool:
    """Whole words only: `art` is not in `party`."""
    return not any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", response, re.IGNORECASE) for word in forbidden_words)


@register("keywords:letter_frequency")
def _letter_frequency(response: str, letter: Letter, let_frequency: Count, let_relation: Relation) -> bool:
    return _holds(response.lower().count(letter.lower()), let_relation, let_frequency)


def _occurrences(keyword: str, response: str) -> int:
    """Also within words, whatever the case: `cat` is in `Category`."""
    return len(re.findall(re.escape(keyword), response, re.IGNORECASE))


# --- language and length ------------------------------------------------------------------------------------------


@register("language:response_language")
def _response_language(response: str, language: Language) -> bool:
    """Regions do not count: `zh-cn` is `zh`."""
    return prose.language_of(response) == language[:2]


@register("length_constraints:number_sentences")
def _number_sentences(response: str, num_sentences: Count, relation: Relation) -> bool:
    return _holds(prose.count_sentences(response), relation, num_sentences)


@register("length_constraints:number_words")
def _number_words(response: str, num_words: Count, relation: Relation) -> bool:
    return _holds(prose.count_words(response), relation, num_words)


@register("length_constraints:number_paragraphs")
def _number_paragraphs(response: str, num_paragraphs: Count) -> bool:
    """Exactly so many, with `***` between them; none may be empty, but a divider may open or close the text."""
    paragraphs = _divided(response, "***")
    return paragraphs is not None and len(paragraphs) == num_paragraphs


@register("length_constraints:nth_paragraph_first_word")
def _nth_paragraph_first_word(response: str, num_paragraphs: Count, nth_paragraph: Place, first_word: Text) -> bool:
    """Exactly so many paragraphs, with an empty line between them, and the nth starts with the word in any case."""
    paragraphs = [paragraph.strip() for paragraph in response.split("\n\n")]
    if sum(map(bool, paragraphs)) != num_paragraphs or not any(paragraphs[nth_paragraph - 1 : nth_paragraph]):
        return False
    start = paragraphs[nth_paragraph - 1].split()[0].lstrip("'").lstrip('"')
    return nth_paragraph <= num_paragraphs and re.split(r"[.,?!'\"]", start)[0].lower() == first_word.lower()


# --- detectable content and format --------------------------------------------------------------------------------


@register("detectable_content:number_placeholders")
def _number_placeholders(response: str, num_placeholders: Count) -> bool:
    """`[so]`, within a line."""
    # What follows a line's last bracket is left out: many unclosed ones would be searched again and again.
    closed = [line[: line.rfind("]") + 1] for line in response.split("\n")]
    return sum(len(re.findall(r"\[.*?\]", line)) for line in closed) >= num_placeholders


@register("detectable_content:postscript")
def _postscript(response: str, postscript_marker: Text) -> bool:
    """In any case, and with or without a space after each dot of the marker."""
    marker = re.escape(postscript_marker.lower()).replace(r"\.", r"\.\s?")
    return re.search(marker, response.lower()) is not None


@register("detectable_format:number_bullet_lists")
def _number_bullet_lists(response: str, num_bullets: Count) -> bool:
    """Exactly so many lines that start with `-`, or with one `*`."""
    return len(re.findall(r"^[^\S\n]*(?:-|\*[^*])", response, re.MULTILINE)) == num_bullets


@register("detectable_format:constrained_response")
def _constrained_response(response: str) -> bool:
    return any(answer in response for answer in _ANSWERS)


@register("detectable_format:number_highlighted_sections")
def _number_highlighted_sections(response: str, num_highlights: Count) -> bool:
    """`*so*` or `**so**`, within a line and not empty."""
    single, double = (re.findall(pattern, response) for pattern in (r"\*([^\n*]*)\*", r"\*\*([^\n*]*)\*\*"))
    return sum(bool(text.strip()) for text in single + double) >= num_highlights


@register("detectable_format:multiple_sections")
def _multiple_sections(response: str, section_spliter: Text, num_sections: Count) -> bool:
    """At least so many headings such as `Section 1`; the argument's name is IFEval's."""
    return len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", response)) >= num_sections


@register("detectable_format:json_format")
def _json_format(response: str) -> bool:
    """The whole response is JSON, perhaps within a fence of backticks."""
    text = re.sub(r"^```(?:json|Json|JSON)?|```$", "", response.strip()).strip()
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@register("detectable_format:title")
def _title(response: str) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", response))


# --- combinations, start and end, case, punctuation ---------------------------------------------------------------


@register("combination:two_responses")
def _two_responses(response: str) -> bool:
    """Two different texts with `******` between them."""
    answers = _divided(response, "******")
    return answers is not None and len(answers) == 2 and answers[0] != answers[1]


@register("combination:repeat_prompt")
def _repeat_prompt(response: str, prompt_to_repeat: Text = "") -> bool:
    return response.strip().lower().startswith(prompt_to_repeat.strip().lower())


@register("startend:end_checker")
def _end_checker(response: str, end_phrase: Text) -> bool:
    """A closing quotation mark after the phrase does not matter."""
    return response.strip().strip('"').lower().endswith(end_phrase.lower())


@register("startend:quotation")
def _quotation(response: str) -> bool:
    text = response.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


@register("change_case:capital_word_frequency")
def _capital_word_frequency(response: str, capital_frequency: Count, capital_relation: Relation) -> bool:
    return _holds(prose.count_capital_words(response), capital_relation, capital_frequency)


@register("change_case:english_capital")
def _english_capital(response: str) -> bool:
    return response.isupper() and prose.language_of(response) == "en"


@register("change_case:english_lowercase")
def _english_lowercase(response: str) -> bool:
    return response.islower() and prose.language_of(response) == "en"


@register("punctuation:no_comma")
def _no_comma(response: str) -> bool:
    return "," not in response


def _divided(response: str, divider: str) -> list[str] | None:
    """The texts between dividers, stripped; an empty one counts only at the edges, where it is none, elsewhere None."""
    texts = [text.strip() for text in response.split(divider)]
    inner = texts[1:-1]
    return [text for text in texts if text] if all(inner) else None
