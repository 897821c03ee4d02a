"""The value of a statement: a number, perhaps a sum or with its scale; or A or B. Or it is left open.

Open, and so no verdict, is a value where more than one is named (`3-4`, `3, maybe 4`, `A/B`), that is in question
(`4?`), denied (`not 3 but 4`), or written as nothing here reads (`4%`, `3½`, `4th`). A statement that names no value at
all (`Score: see below`) is no statement.

Readers take plain text (`plain_text.plain`) and the place where the value begins.
"""

import re
from typing import NamedTuple

_S = r"[^\S\n]"
"""Space within a line."""
_DIGITS = r"\d++(?>(?:\.\d++)?)(?>(?:[eE][-+]?\d++)?)"
_POINTS = r"(?:points?|pts?)\b"
_TERM = rf"{_DIGITS}(?:/\d+)?(?:{_S}{{0,2}}{_POINTS})?(?:{_S}{{0,2}}\([^()\n]{{0,60}}\))?"
_SUM = re.compile(rf"{_TERM}(?>(?:{_S}{{0,3}}[-+*×]{_S}{{0,3}}{_TERM})+)(?:{_S}|\)){{0,3}}", re.IGNORECASE)
_TOTAL = re.compile(rf"={_S}{{0,3}}\(?")
_NUMBER = re.compile(rf"-?{_DIGITS}")
_BEFORE = (
    re.compile(
        rf"(?:{_S}|[(+=~{{]|boxed\b){{0,8}}(?:(?:about|approximately|around|roughly|nearly|exactly|only|just|total|of|an?|"
        rf"at|level){_S}+){{0,3}}(?:{_S}|\(){{0,4}}",
        re.IGNORECASE,
    ),
    re.compile(rf"{_S}{{0,3}}(?:[A-Za-z][A-Za-z'-]{{0,20}},?{_S}{{1,3}}){{1,3}}\({_S}{{0,3}}"),
)
"""What may stand before a number: brackets, `about`, `a`, `total`; or a few words that the number explains."""
_OF_TOP = (
    rf"(?:/|out of|of){_S}{{0,2}}(?:a (?:possible |maximum |total )*(?:of )?|possible |maximum |max )?"
    rf"(?P<top>{_DIGITS})(?:{_S}{{0,2}}{_POINTS})?\)?"
)
_ON_A_SCALE = (
    rf"(?:on |in )?(?:an? |the )?(?:(?P<points>\d{{1,3}})-point scale|"
    rf"scale\W{{0,2}}(?: from| of)?{_S}{{0,2}}\d{{1,3}}{_S}?(?:-|to|\.\.){_S}?(?P<end>\d{{1,3}}))"
)
_SCALE = re.compile(rf"{_S}{{0,2}}(?:{_POINTS})?{_S}{{0,2}}\(?{_S}{{0,2}}(?:{_OF_TOP}|{_ON_A_SCALE})", re.IGNORECASE)

_UNREAD = re.compile(
    rf"[.,·']\d|{_S}?[½¼¾⅓⅔⅛%‰?]|(?!{_POINTS})[A-Za-z]|\+|{_S}+\d(?!\d?[.)]{_S})|{_S}*(?:percent|possible|max)",
    re.IGNORECASE,
)
"""What makes something else of a number than its digits say."""
_UNREAD_SCALE = re.compile(rf"[.,·]\d|{_S}?[½¼¾⅓⅔⅛%‰?]")
_ASIDE = r"(?:\([^()\n]{0,40}\)|for\b[^\n\d.;:]{0,40})?"
_JOIN = (
    rf"{_S}{{0,3}}(?:-|to\b|or\b|and\b|/|\||>|=|~|&|:|{_ASIDE}{_S}?(?:,|and\b)|"
    rf",?{_S}?\(?(?:maybe|perhaps|possibly|or|but|even|if)\b[^\d\n.;:]{{0,20}}){_S}{{0,3}}-?"
)
_JOINED = re.compile(rf"{_JOIN}{_DIGITS}", re.IGNORECASE)
_JOINED_SCALED = re.compile(rf"{_JOIN}{_DIGITS}{re.sub('[?]P<[a-z]+>', '?:', _SCALE.pattern)}", re.IGNORECASE)
_CORRECTED = re.compile(
    r"[\W_]{0,6}(?:no\b|wait|actually|sorry|rather|correction|hmm|make that|minus|plus|less)\b[^\n\d]{0,40}\d",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    rf"{_S}*(?:{_POINTS})?{_S}*(?:would|could|might|should|needs?|requires?|only if|if|unless|possible|maximum|is for|"
    r"was for)\b",
    re.IGNORECASE,
)
_OPEN = re.compile(r"[^\n]{0,80}(?:\d|\bnone\b|\bn/a\b|\bundecided\b)", re.IGNORECASE)
_SEPARATED = re.compile(rf"(?:[:=|>-]|\b(?:is|was)){_S}*\Z")
_NEXT_LINE = re.compile(rf"[\W_]{{0,4}}?(?:{_S}*\n){{1,3}}")
_WHOLE_LINE = re.compile(rf"{_S}*(?:{_POINTS})?[^\w\n]*(?:\n|\Z)", re.IGNORECASE)

_SLOT = re.compile(
    r"[\W_]{0,6}(?i:boxed\W)?(?i:the )?(?P<named>(?i:judge?ment|assessment|option))?(?P<plural>s)?[\W_]{0,4}"
    r"(?P<slot>[AaBb])(?![^\W_])"
)
_OTHER = r"[\W_]{0,4}(?:judge?ment[\W_]{0,4})?[AB](?![^\W_])"
_TIE = re.compile(
    rf"{_S}{{0,2}}(?:\([^()\n]{{0,30}}\){_S}?)?(?:(?:[/|&+=~<]|and\b|or\b|vs\b\.?){_OTHER}|[,-]{_OTHER}\W*(?:\n|\Z)|\?)|"
    rf"[\W_]{{0,6}}(?:no\b|wait|actually|sorry|rather|correction)\b[^\n]{{0,40}}?\b[AB](?![^\W_])",
    re.IGNORECASE,
)
_WORD_BEHIND = re.compile(rf"{_S}+\w|'?s\b")
_OF_A_NAME = re.compile(rf"{_S}+(?:because|as|since|over|is|wins|has|due|by|with|beats|than|for|on|and|or|vs)\b|'?s\b")
_NOBODY = re.compile(
    r"[\W_]{0,6}(?:both|neither|none|nobody|tie|a tie|draw|equal|not|undecided|judge?ments)\b", re.IGNORECASE
)


class Value(NamedTuple):
    """A value that was read, None if it is open, and what a redaction hides of the text. `statement` is where the
    statement begins that has it."""

    value: float | str | None
    start: int
    end: int
    top: float | None = None
    """The highest score of its scale, where one is named."""
    statement: int | None = None

    @property
    def span(self) -> tuple[int, int]:
        """The whole statement, from its first word through its value."""
        return self.start if self.statement is None else self.statement, self.end

    def at(self, offset: int) -> "Value":
        """The same, found in a piece of text that begins at `offset`."""
        statement = self.start if self.statement is None else self.statement
        return Value(self.value, self.start + offset, self.end + offset, self.top, statement + offset)


def read_score(text: str, at: int) -> Value | None:
    """The number whose statement has come to `at`, on its line or alone on the next one; None if there is none."""
    following = _NEXT_LINE.match(text, at)
    if following:
        found = read_score(text, following.end())
        return found if found and _WHOLE_LINE.match(text, found.end) else None
    for before in _BEFORE:
        lead = before.match(text, at)
        if lead and _NUMBER.match(text, lead.end()):
            return _expression(text, lead.end())
    unread = _OPEN.match(text, at) if _SEPARATED.search(text, 0, at) else None
    return Value(None, at, unread.end()) if unread else None


def read_winner(text: str, at: int) -> Value | None:
    """The judgement whose statement has come to `at`; None if it names none."""
    found = _SLOT.match(text, at)
    if found is None or found["plural"]:
        nobody = _NOBODY.match(text, at)
        return Value(None, at, nobody.end()) if nobody else None
    end = found.end("slot")
    if _TIE.match(text, end):
        return Value(None, at, end)
    if not found["named"] and not _ends(text, end, lower=found["slot"].islower()):
        return Value(None, at, end)
    return Value(found["slot"].lower(), found.start("slot"), end)


def _ends(text: str, end: int, lower: bool) -> bool:
    """Whether a bare letter is a name: an `A` with a word behind it is mostly an article."""
    return not _WORD_BEHIND.match(text, end) or (not lower and _OF_A_NAME.match(text, end) is not None)


def _expression(text: str, start: int) -> Value | None:
    """A number, or the total of a sum, that begins at `start`; None if it is what something else would need."""
    place = start
    if terms := _SUM.match(text, start):
        total = _TOTAL.match(text, terms.end())
        if total is None or not _NUMBER.match(text, total.end()):
            return Value(None, start, terms.end())
        place = total.end()
    number = _NUMBER.match(text, place)
    assert number is not None
    scale = _SCALE.match(text, number.end())
    end = scale.end() if scale else number.end()
    broken = (_UNREAD_SCALE, _JOINED_SCALED, _CORRECTED) if scale else (_UNREAD, _JOINED, _CORRECTED)
    if any(pattern.match(text, end) for pattern in broken):
        return Value(None, start, end)
    if _CONDITION.match(text, end):
        return None
    top = next(filter(None, scale.groups()), None) if scale else None
    return Value(float(number[0]), start, end, float(top) if top else None)
