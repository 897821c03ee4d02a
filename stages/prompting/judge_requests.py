"""What the judge is given: the rubric with a question and a response, and a seed for each of its votes.

A response that is too long for the model is cut in the middle, visibly; the rubric, the question and the reference
answer are never cut.
"""

from collections.abc import Callable, Iterable
from typing import Any

import polars as pl

from stages.config import POLICY
from stages.contracts.errors import StageError
from stages.contracts.ids import Message, Seeds, judgement_id
from stages.contracts.schema import frame
from stages.prompting.chat import ChatTokenizer
from stages.prompting.templates import PromptTemplate, conversation
from stages.tables import JUDGE_PROMPTS

CUT_MARK = " [...] "


def judge_inputs(
    candidates: pl.DataFrame, template: PromptTemplate, chat: ChatTokenizer, limit: int, judge: str = POLICY
) -> pl.DataFrame:
    """What `judge` is given: rows of JUDGE_PROMPTS for candidates (`prompt_id`, `candidate_id`, `messages`, `text`, and
    `answer` where there are answers); none exceeds `limit` tokens. A candidate whose question alone, without any
    response, is too long has no row.

    Raises StageError naming the prompt that lacks the answer that the template needs as `reference`.
    """
    rows = candidates.select(pl.col("^(prompt_id|candidate_id|messages|text|answer)$")).rows(named=True)
    questions = [_question(template, row, row["text"]) for row in rows]
    inputs = []
    for row, question, tokens in zip(rows, questions, chat.encode_batch(questions), strict=True):
        shortened = len(tokens) > limit
        if shortened:
            response = _fitting_response(template, row, chat, limit)
            if response is None:
                continue
            question = _question(template, row, response)
            tokens = chat.encode(question)
        keys = {"prompt_id": row["prompt_id"], "candidate_id": row["candidate_id"], "judge": judge}
        inputs.append({**keys, "messages": question, "token_ids": tokens, "shortened": shortened})
    return frame(JUDGE_PROMPTS, inputs)


def shorten(text: str, chat: ChatTokenizer, size: Callable[[str], int], limit: int) -> str | None:
    """`text` without some tokens in its middle, with CUT_MARK in their place, so that `size(result) <= limit`.

    `size` counts the tokens of the whole model input. None if even the mark alone does not fit.
    """
    tokens = chat.offsets(text)
    shortened, kept, excess = text, len(tokens), size(text) - limit
    while excess > 0:
        if kept == 0:
            return None
        kept = max(0, kept - excess)
        head, tail = tokens[: kept - kept // 2], tokens[len(tokens) - kept // 2 :]
        shortened = text[: head[-1][1] if head else 0] + CUT_MARK + text[tail[0][0] if tail else len(text) :]
        excess = size(shortened) - limit
    return shortened


def judge_requests(inputs: pl.DataFrame, votes: Iterable[int], seeds: Seeds) -> pl.DataFrame:
    """One request per candidate (rows of JUDGE_PROMPTS) and number of a vote, with the keys of JUDGEMENTS."""
    numbers = list(votes)
    keys = [
        (candidate, vote, judgement_id(candidate, vote), seeds.of("judge", candidate, vote))
        for candidate in inputs["candidate_id"]
        for vote in numbers
    ]
    schema = {"candidate_id": pl.String, "vote": pl.Int64, "request_id": pl.String, "seed": pl.Int64}
    given = inputs.select("prompt_id", "candidate_id", "judge", prompt_token_ids="token_ids")
    return pl.DataFrame(keys, schema=schema, orient="row").join(given, on="candidate_id", validate="m:1")


def _fitting_response(template: PromptTemplate, row: dict[str, Any], chat: ChatTokenizer, limit: int) -> str | None:
    def size(text: str) -> int:
        return len(chat.encode(_question(template, row, text)))

    return shorten(row["text"], chat, size, limit)


def _question(template: PromptTemplate, row: dict[str, Any], response: str) -> list[Message]:
    values = {"conversation": conversation(row["messages"]), "response": response}
    if "reference" in template.variables:
        if row.get("answer") is None:
            raise StageError(
                f"prompt {row['prompt_id']}: it has no answer of its data set, which {template.path} shows as "
                "`reference`; add the answer to the data, leave the prompt out, or set judge.template to one without"
            )
        values["reference"] = row["answer"]
    return [{"role": "user", "content": template.render(**values)}]
