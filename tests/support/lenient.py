"""What the lenient grammar reads in a text that ended by itself."""

from stages.algorithms.parsing import LENIENT, parse_score, parse_winner


def score(text: str) -> tuple[str, float | None]:
    return parse_score(text, "stop", LENIENT, 0, 5)[:2]


def winner(text: str) -> str | None:
    return parse_winner(text, "stop", LENIENT).value
