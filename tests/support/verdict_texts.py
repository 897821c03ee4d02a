"""Arbitrary texts, and texts made of what verdicts are made of."""

from hypothesis import strategies as st

SCORE_FRAGMENTS = [
    *("Score", ": ", "points ", "4", "４", "²", "/5", " out of ", "-", "−", ".", ",", "e", "**", "<", ">", "\n"),
    *(
        " (",
        "0-5",
        ")",
        "]",
        " to ",
        " or ",
        "=",
        " + ",
        "Total",
        "<think>",
        "</think>",
        "```",
        '{"score": ',
        "}",
        "I give ",
    ),
]
WINNER_FRAGMENTS = [
    *("Winner", "wınner", "ſcore", "poİnts", "Judgement ", "judgment ", "A", "b", " a tie", "]", " | ", " and "),
]
FRAGMENTS = st.sampled_from(SCORE_FRAGMENTS + WINNER_FRAGMENTS)
TEXTS = st.one_of(st.text(), st.lists(FRAGMENTS).map("".join), st.text(st.characters(categories=["Cs", "Nd", "P"])))
