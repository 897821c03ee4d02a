"""What the meta-judge is given: a question, a response and two judgements of it, in an order; and its seed."""

import polars as pl

from stages.contracts.ids import Seeds
from stages.contracts.schema import frame
from stages.prompting.chat import ChatTokenizer
from stages.prompting.templates import PromptTemplate, conversation
from stages.prompting.unasked import unasked
from stages.tables import META_JUDGE_PROMPTS, VERDICTS, columns


def meta_judge_inputs(compared: pl.DataFrame, template: PromptTemplate, chat: ChatTokenizer) -> pl.DataFrame:
    """Rows of META_JUDGE_PROMPTS for rows with its keys, `messages`, `response`, `judgement_a` and `judgement_b`."""
    rows = compared.rows(named=True)
    questions = []
    for row in rows:
        values = {name: row[name] for name in ("response", "judgement_a", "judgement_b")}
        text = template.render(conversation=conversation(row["messages"]), **values)
        questions.append([{"role": "user", "content": text}])
    return frame(
        META_JUDGE_PROMPTS,
        [
            {**{key: row[key] for key in VERDICTS.key}, "messages": question, "token_ids": tokens}
            for row, question, tokens in zip(rows, questions, chat.encode_batch(questions), strict=True)
        ],
    )


def fitting(inputs: pl.DataFrame, limit: int) -> pl.DataFrame:
    """The comparisons of which both orders have at most `limit` tokens: position weights need both."""
    pair = ["candidate_id", pl.min_horizontal("vote_a", "vote_b"), pl.max_horizontal("vote_a", "vote_b").alias("high")]
    return inputs.filter(pl.col("token_ids").list.len().max().over(pair) <= limit)


def meta_judge_requests(inputs: pl.DataFrame, seeds: Seeds) -> pl.DataFrame:
    """One request per comparison (rows of META_JUDGE_PROMPTS), with the keys of VERDICTS."""
    pairs = inputs.select("candidate_id", "vote_a", "vote_b").rows()
    return inputs.select(*VERDICTS.key, prompt_token_ids="token_ids").with_columns(
        pl.Series("request_id", [f"{candidate}-v{a}-v{b}" for candidate, a, b in pairs], dtype=pl.String),
        pl.Series("seed", [seeds.of("meta_judge", *pair) for pair in pairs], dtype=pl.Int64),
    )


def not_asked(comparisons: pl.DataFrame, reason: str, why: str, seeds: Seeds) -> pl.DataFrame:
    """Rows of VERDICTS for comparisons (with their keys) that are not asked for; `reason` is their finish reason."""
    requests = meta_judge_requests(comparisons.with_columns(token_ids=pl.lit([], pl.List(pl.Int32))), seeds)
    return unasked(requests, reason, why).select(*VERDICTS.key, *columns.COMPLETION)
