r"""How models state a verdict: the forms that are read, each with an example.

A verdict is a statement of the total, at the beginning of a line or of a sentence. Labels have the highest authority,
then sentences, then values that stand alone; of the statements of the highest authority that a text has, the last one
counts.

| authority | form | example |
|-|-|-|
| label | a total's name, then the value, also on the next line | `**Final score (0-5)** = 4/5`, `\| Total \| 4 \|` |
| label | a tag, a box, double brackets | `<score>4</score>`, `\boxed{4}`, `[[4]]` |
| label | a key of a JSON object | `{"reasoning": "Fine.", "score": 4}` |
| label | the winner's | `The winner is Judgement B.`, `Winner (A or B): **B**` |
| sentence | the judge gives so much | `I would give it a 4.5.`, `So I rate this response 4 out of 5.` |
| sentence | the response deserves so much | `The response earns a score of 4.` |
| sentence | a score of so much, and no more is said | `a score of **4**` |
| sentence | a judgement wins | `Judgement A wins.`, `Judgement A is the winner.` |
| alone | a number with its scale, on one of the last lines | `4/5` |

How the value itself is read, or found to be left open: `stages.algorithms.verdict_values`.
"""

import re
from typing import NamedTuple

_S = r"[^\S\n]"
"""Space within a line."""


class Form(NamedTuple):
    """A form of statement: from the beginning of a sentence, `pattern` matches up to where the value begins. If it
    `ends` its line, nothing may follow the value there."""

    pattern: re.Pattern[str]
    ends: bool = False


Forms = dict[str, tuple[Form, ...]]
"""Forms by a word that each of their statements has, in the order in which they are tried."""


def _form(pattern: str, ends: bool = False) -> Form:
    return Form(re.compile(pattern, re.IGNORECASE), ends)


_LEAD = rf"(?:[^\w{{]|_){{0,12}}(?:\d{{1,2}}[.)]{_S}{{1,3}})?(?:[^\w{{]|_){{0,6}}"
"""Marks, and the number of a list's item."""
_SO = (
    r"(?:(?:so|thus|hence|therefore|accordingly|consequently|overall|finally|altogether|in (?:total|sum|summary|"
    r"conclusion|all)|(?:my |the )?(?:final )?(?:verdict|conclusion|answer|decision|judge?ment|assessment|evaluation|"
    r"correction)|"
    rf"(?:based on|given|considering|taking|with)\b[^,.\n\d]{{1,80}})[,:]?{_S}{{1,3}}){{0,2}}"
)
_WHOSE = (
    r"(?:(?:my|the|its|this|your|overall|total|final|aggregated?|combined|cumulative|resulting|assigned|judge's|"
    rf"response's|answer's){_S}{{1,3}}){{0,4}}"
)
_REMARK = (
    rf"(?P<remark>{_S}{{0,3}}\({{1,2}}[^()\n]{{1,40}}\){{1,2}}|{_S}{{1,3}}(?:out of|on a scale of|on a scale from|from)"
    rf"{_S}+\d{{1,3}}(?:{_S}?(?:to|-){_S}?\d{{1,3}})?)"
)
_OF_WHAT = (
    rf"(?:{_S}{{1,3}}(?:awarded|given|assigned)\b)?"
    rf"(?:{_S}{{1,3}}(?:for|of|to) (?:this|the)(?: assistant's| AI's)?(?: response| answer| reply)?)?"
)
_IS = (
    rf"{_S}{{0,3}}(?:(?:(?:is|was|comes to|would be|will be|should be|must be)(?: therefore| thus| hence| then)?\b|"
    # An arrow or a dash is a sign, and not eaten here, only where it stands between a colon and its number.
    rf"[:=|]|-(?!\d)|(?<![:=])(?<![:=]{_S})[->]|(?<=[-=])>){_S}{{0,3}}){{0,4}}"
)
_NOUN = r"(?:score|rating|grade|mark|total(?: points?| score| rating)?|overall(?: score| rating)?|points? total)\b"

_LABEL = rf"{_LEAD}{_SO}{_WHOSE}{_NOUN}{_OF_WHAT}"
_LABELLED = (_form(f"{_LABEL}{_REMARK}{_IS}"), _form(f"{_LABEL}{_IS}"))
_BOXED = (_form(rf"{_LEAD}{_SO}(?:the )?(?:final )?(?:answer is)?\W{{0,6}}boxed\W{{0,3}}", ends=True),)

SCORE_LABELS: Forms = {
    **dict.fromkeys(("score", "rating", "grade", "mark", "total", "overall"), _LABELLED),
    "points": (_form(rf"{_LEAD}points?{_REMARK}?{_S}{{0,3}}[:=]{_S}{{0,3}}(?=\d+(?:\.\d+)?{_S}?(?:/|out of))"),),
    "result]": (_form(rf"{_LEAD}result{_S}{{0,3}}[:)]?{_S}{{0,3}}"),),
    "boxed{": _BOXED,
    "[[": (_form(r"[^\n]{0,200}?\(\((?=\d+(?:\.\d+)?(?:/\d+)?\)\))"),),
}
_GIVE = "give rate score assign award grade gave rated scored assigned awarded graded giving"
_EARN = "deserves earns receives gets merits warrants scores achieves"
SCORE_SENTENCES: Forms = {
    **dict.fromkeys(
        ("give", "gave", "giving", "rate", "score", "assign", "award", "grade"),
        (
            _form(
                rf"{_LEAD}{_SO}(?:I|we)(?:'d|'ll|'ve|'m)?{_S}{{1,3}}(?:(?:would|will|have|can|must|should|do|therefore|thus|"
                rf"hence|am|are|inclined to|going to|to){_S}{{1,3}}){{0,4}}(?:{'|'.join(_GIVE.split())})\b"
                rf"(?:(?!\b(?:if|for|because|since|that)\b)[^.!?\n\d]){{0,80}}?(?=(?:{_S}|[(~])*\d)"
            ),
        ),
    ),
    **dict.fromkeys(
        (*_EARN.split(), "is rated", "is given", "is awarded", "is scored"),
        (
            _form(
                rf"{_LEAD}{_SO}(?:this|the|it)(?:{_S}{{1,3}}[a-z]+){{0,3}}?{_S}{{1,3}}(?:{'|'.join(_EARN.split())}|"
                rf"is (?:rated|given|awarded|scored)){_S}{{1,3}}(?:[^.!?\n\d]{{0,40}}\b(?:score|rating|total|grade)"
                rf"(?: points?)? of|an?|(?=[^\n]{{0,6}}(?:/|out of)))(?=(?:{_S}|[(~])*\d)"
            ),
        ),
    ),
    " of ": (
        _form(rf"{_LEAD}{_SO}an? (?:(?:total|final|overall) ){{0,2}}(?:score|rating|total|grade) of(?=\W*\d)"),
        _form(r"[^\n]{0,200}?\b(?:for|giving|making)(?: it)? a (?:total|final|overall)(?: score)? of"),
    ),
}
WINNER_LABELS: Forms = {
    **dict.fromkeys(
        ("winner", "better", "verdict", "preferred"),
        (
            _form(
                rf"{_LEAD}{_SO}(?:(?:the|my|overall|final|clear){_S}{{1,3}}){{0,3}}(?:winner|winning judge?ment|"
                rf"(?:better|best|preferred) (?:judge?ment|one|option)|verdict){_REMARK}?{_IS}"
            ),
        ),
    ),
    "boxed{": _BOXED,
    "[[": (_form(r"[^\n]{0,200}?\(\((?=[AB]\)\))"),),
}
WINNER_SENTENCES: Forms = dict.fromkeys(
    ("judgement a", "judgement b", "judgment a", "judgment b"),
    (_form(rf"{_LEAD}{_SO}(?=judge?ments?[\W_]{{0,3}}[AB]{_S}{{1,3}}(?:wins|is the (?:winner|better))\b)"),),
)
