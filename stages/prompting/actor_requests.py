"""What the actor is given: the conversations of prompts, under the chat template, and a seed for each sample."""

import polars as pl

from stages.contracts.ids import Seeds, candidate_id
from stages.prompting.chat import ChatTokenizer


def actor_inputs(prompts: pl.DataFrame, chat: ChatTokenizer) -> pl.DataFrame:
    """Rows of CANDIDATE_PROMPTS for rows of PROMPTS."""
    tokens = chat.encode_batch(prompts["messages"].to_list())
    return prompts.select("prompt_id", "messages").with_columns(pl.Series("token_ids", tokens, dtype=pl.List(pl.Int32)))


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
