"""Responses checked against the instructions that their prompts carry."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import polars as pl

from stages.algorithms.checks import follows
from stages.algorithms.prompt_parts import Parts
from stages.algorithms.statistics import SHARE
from stages.algorithms.thoughts import answer_of

Row = dict[str, Any]


class Outcome(NamedTuple):
    """What came of one check of one response."""

    check: int
    """Its number in the prompt's list, from 0."""
    instruction: str
    passed: bool
    detail: str | None
    """What kept the check from being carried out, if anything did."""


def outcomes(response: Row) -> Iterator[Outcome]:
    """What comes of each check of a response with `text`, `finish_reason`, and `messages` and `checks` of its prompt.

    Checked is the answer alone, without thoughts before it. An empty or failed response follows nothing, and a check
    that raises is not passed.
    """
    answer = _answer(response)
    for number, check in enumerate(json.loads(response["checks"])):
        yield Outcome(number, check["id"], *_passes(check, answer, response))


def loosely(response: Row) -> list[bool]:
    """For each check of a response (as `outcomes` takes it) whether a variant of the answer passes it."""
    answer = _answer(response)
    variants = [answer, *loosened(answer)]
    checks = json.loads(response["checks"])
    return [any(_passes(check, variant, response)[0] for variant in variants) for check in checks]


def _answer(response: Row) -> str:
    return "" if response["finish_reason"] == "error" else answer_of(response["text"])


def _passes(check: Row, answer: str, response: Row) -> tuple[bool, str | None]:
    if not answer.strip():
        return False, "there is no response"
    try:
        return follows(check["id"], check["arguments"], answer, response["messages"][-1]["content"]), None
    except Exception as error:  # whatever a response does to a check, it has not passed it
        return False, f"{type(error).__name__}: {error}"


def loosened(answer: str) -> list[str]:
    """The variants of an answer that IFEval's loose accuracy tries (Zhou et al. 2023, section 2.3): without its first
    line, its last line, or both, each also without asterisks; the answer itself only so."""
    lines = answer.split("\n")
    parts = [answer, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))]
    return [*parts[1:], *(part.replace("*", "") for part in parts)]


def followed_parts(checked: pl.DataFrame, decoding: str) -> dict[str, Parts]:
    """What each prompt adds to the metrics of a `decoding`, by prompt id, from rows of table `check_evaluations`.

    IFEval's four numbers: shares of responses that follow all their instructions (`prompt_strict`, `prompt_loose`), and
    of instructions that are followed (`instruction_strict`, `instruction_loose`), with `_greedy` after the names where
    that is the decoding. Of samples also `follows:<instruction>`, strict, for each kind.
    """
    ending = "_greedy" if decoding == "greedy" else ""
    rows = checked.filter(pl.col("decoding") == decoding)
    found: dict[str, Parts] = {}
    for (prompt_id,), prompt in rows.group_by("prompt_id", maintain_order=True):
        whole = prompt.group_by("sample").agg(pl.col("strict", "loose").all())
        parts: Parts = {}
        for name in ("strict", "loose"):
            parts[f"prompt_{name}{ending}"] = (float(whole[name].sum()), whole.height, SHARE)
            parts[f"instruction_{name}{ending}"] = (float(prompt[name].sum()), prompt.height, SHARE)
        if decoding == "sample":
            for (kind,), some in prompt.group_by("instruction", maintain_order=True):
                parts[f"follows:{kind}"] = (float(some["strict"].sum()), some.height, SHARE)
        found[str(prompt_id)] = parts
    return found
