"""What the actor is given: the conversations of prompts, under the chat template, and a seed for each sample."""

import polars as pl

from stages.contracts.ids import Seeds, candidate_id
from stages.prompting.chat import ChatTokenizer


def actor_inputs(prompts: pl.DataFrame, chat: ChatTokenizer) -> pl.DataFrame:
    """Rows of CANDIDATE_PROMPTS for rows of PROMPTS."""
    tokens = chat.encode_batch(prompts["messages"].to_list())
    return prompts.select("prompt_id", "messages").with_columns(pl.Series("token_ids", tokens, dtype=pl.List(pl.Int32)))


def hinted(prompts: pl.DataFrame) -> pl.DataFrame:
    """The rows of PROMPTS that have a `sampling_hint`, with the hint at the end of the last turn."""
    rows = prompts.filter(pl.col("sampling_hint").is_not_null())
    messages = [
        [*turns[:-1], {**turns[-1], "content": f"{turns[-1]['content']} {hint}"}]
        for turns, hint in rows.select("messages", "sampling_hint").iter_rows()
    ]
    return rows.with_columns(pl.Series("messages", messages, dtype=rows.schema["messages"]))


def with_hints(requests: pl.DataFrame, hinted_inputs: pl.DataFrame, count: int) -> pl.DataFrame:
    """The requests, of which the first `count` samples of each prompt get the tokens that `hinted_inputs` (rows of
    CANDIDATE_PROMPTS) has for it, where it has any."""
    tokens = hinted_inputs.select("prompt_id", hint_token_ids="token_ids")
    joined = requests.join(tokens, on="prompt_id", how="left", validate="m:1", maintain_order="left")
    hint = pl.when(pl.col("sample") < count).then("hint_token_ids")
    return joined.with_columns(prompt_token_ids=pl.coalesce(hint, "prompt_token_ids")).drop("hint_token_ids")


def actor_requests(inputs: pl.DataFrame, samples: int, seeds: Seeds) -> pl.DataFrame:
    """One request per prompt (rows of CANDIDATE_PROMPTS) and sample, with the keys of CANDIDATES."""
    rows = [
        (prompt, key := candidate_id(prompt, seeds.iteration, sample), key, seeds.iteration, sample, seed)
        for prompt in inputs["prompt_id"]
        for sample in range(samples)
        for seed in [seeds.of("candidates", prompt, sample)]
    ]
    schema = {
        "prompt_id": pl.String,
        "candidate_id": pl.String,
        "request_id": pl.String,
        "iteration": pl.Int64,
        "sample": pl.Int64,
        "seed": pl.Int64,
    }
    tokens = inputs.select("prompt_id", prompt_token_ids="token_ids")
    return pl.DataFrame(rows, schema=schema, orient="row").join(tokens, on="prompt_id", validate="m:1")
