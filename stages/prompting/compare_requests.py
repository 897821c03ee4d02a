"""What a judge of two models is given: a conversation and an answer of each, in both orders; and its seed."""

import polars as pl

from stages.contracts.ids import Seeds
from stages.prompting.chat import ChatTokenizer
from stages.prompting.templates import PromptTemplate, conversation
from stages.tables import COMPARISONS, EVALUATIONS


def both_orders(pairs: pl.DataFrame) -> pl.DataFrame:
    """Two rows for each pair of answers (with `text` and `other_text`): which one is shown `first`, and as what."""
    orders = (("model", "text", "other_text"), ("other", "other_text", "text"))
    return pl.concat(pairs.with_columns(first=pl.lit(who), response_a=a, response_b=b) for who, a, b in orders)


def compare_inputs(shown: pl.DataFrame, template: PromptTemplate, chat: ChatTokenizer) -> pl.DataFrame:
    """Rows of `both_orders` with the exact input tokens, `token_ids`."""
    questions = []
    for messages, a, b in shown.select("messages", "response_a", "response_b").iter_rows():
        text = template.render(conversation=conversation(messages), response_a=a, response_b=b)
        questions.append([{"role": "user", "content": text}])
    tokens = chat.encode_batch(questions)
    return shown.with_columns(pl.Series("token_ids", tokens, dtype=pl.List(pl.Int32)))


def fitting(inputs: pl.DataFrame, limit: int) -> pl.DataFrame:
    """The comparisons of which both orders have at most `limit` tokens: one order alone decides nothing."""
    return inputs.filter(pl.col("token_ids").list.len().max().over(EVALUATIONS.key) <= limit)


def compare_requests(inputs: pl.DataFrame, seeds: Seeds) -> pl.DataFrame:
    """One request per comparison, with the keys of COMPARISONS. Both orders have one seed: who is called the model and
    who the other one then changes nothing."""
    keys = inputs.select(COMPARISONS.key).rows()
    return inputs.select(*COMPARISONS.key, prompt_token_ids="token_ids").with_columns(
        pl.Series("request_id", ["-".join(map(str, key)) for key in keys], dtype=pl.String),
        pl.Series("seed", [seeds.of("compare", *key[:3]) for key in keys], dtype=pl.Int64),
    )
