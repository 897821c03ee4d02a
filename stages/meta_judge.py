"""Meta-judge: the model compares its own judgements of one response per prompt, as raw text.

Reads   prompts, candidates, judgements (raw), votes and scores of the iteration, the meta-judge template, the model.
Does    per prompt of its shard, takes the candidate whose votes vary most, and asks for the better judgement of each
        pair of its judgements, in both orders, with the scores hidden (Meta-Rewarding, section 2.2). Pairs that do
        not fit the model are not asked; their verdict is an error that says so.
Writes  one row per comparison (VERDICTS), and its exact model input (META_JUDGE_PROMPTS).
"""

import sys
from pathlib import Path

import polars as pl
from pydantic import Field

from stages.algorithms.comparisons import candidate_to_compare, comparisons
from stages.algorithms.parsing import redact
from stages.config import EngineSettings, MetaJudgeSection, ScoreSection
from stages.contracts.artifacts import frame, read, write
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.ids import seed_for, shard_of
from stages.contracts.provenance import describe, model_digest
from stages.engines.protocol import open_engine
from stages.engines.resumable import generate, publish, summary, with_messages
from stages.prompting.chat import ChatTokenizer
from stages.prompting.templates import META_JUDGE_VARIABLES, PromptTemplate, conversation, load_template
from stages.tables import CANDIDATES, JUDGEMENTS, META_JUDGE_PROMPTS, SCORES, VERDICTS, VOTES

_KEYS = ["prompt_id", "candidate_id", "vote_a", "vote_b"]


class Args(MetaJudgeSection):
    """Flags of this stage."""

    engine: EngineSettings = Field(EngineSettings(), description="Generation engine.")
    model: Path = Field(description="Hugging Face directory of the model that compares.")
    prompts: Path = Field(description="Prompts of the iteration (Parquet).")
    candidates: list[Path] = Field(min_length=1, description="Candidates: Parquet files.")
    judgements: list[Path] = Field(min_length=1, description="Judgements: Parquet files.")
    votes: Path = Field(description="Parsed votes (Parquet).")
    scores: Path = Field(description="Scores (Parquet).")
    score_pattern: str = Field(
        ScoreSection.model_fields["pattern"].default,
        description="`score.pattern`, a grammar's name or an expression: what to hide in the judgements.",
    )
    seed: int = Field(0, description="Seed of the run.")
    iteration: int = Field(1, description="Iteration, from 1.")
    shard: int = Field(0, description="Which share of the prompts to work on, from 0.")
    shards: int = Field(1, description="Number of shares.")
    output: Path = Field(description="Output: verdicts (Parquet).")
    model_inputs: Path = Field(description="Output: what the model was given (Parquet).")


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
            {**{key: row[key] for key in _KEYS}, "messages": question, "token_ids": tokens}
            for row, question, tokens in zip(rows, questions, chat.encode_batch(questions), strict=True)
        ],
    )


def fitting(inputs: pl.DataFrame, limit: int) -> pl.DataFrame:
    """The comparisons of which both orders have at most `limit` tokens: position weights need both."""
    pair = ["candidate_id", pl.min_horizontal("vote_a", "vote_b"), pl.max_horizontal("vote_a", "vote_b").alias("high")]
    return inputs.filter(pl.col("token_ids").list.len().max().over(pair) <= limit)


def ask(inputs: pl.DataFrame, seed: int, iteration: int) -> pl.DataFrame:
    """One request per comparison, with the keys of VERDICTS."""
    pairs = inputs.select("candidate_id", "vote_a", "vote_b").rows()
    return inputs.select(*_KEYS, prompt_token_ids="token_ids").with_columns(
        pl.Series("request_id", [f"{candidate}-v{a}-v{b}" for candidate, a, b in pairs], dtype=pl.String),
        pl.Series("seed", [seed_for(seed, iteration, "meta_judge", *pair) for pair in pairs], dtype=pl.Int64),
    )


def not_asked(over_long: pl.DataFrame, limit: int, seed: int, iteration: int) -> pl.DataFrame:
    """Rows of VERDICTS for the comparisons (rows of META_JUDGE_PROMPTS) that exceed `limit` tokens in either order."""
    return ask(over_long, seed, iteration).select(
        *_KEYS,
        "seed",
        text=pl.lit(""),
        token_ids=pl.lit([], pl.List(pl.Int32)),
        tokens=pl.lit(0, pl.Int64),
        finish_reason=pl.lit("error"),
        logprob=pl.lit(None, pl.Float64),
        error=pl.lit(f"not asked: longer than {limit} tokens in one of both orders"),
    )


def comparisons_of_shard(args: Args) -> pl.DataFrame:
    """What to compare: keys, `messages`, `response`, and both judgements with their scores hidden."""
    scores = read(args.scores, SCORES)
    mine = scores.filter([shard_of(prompt, args.shards) == args.shard for prompt in scores["prompt_id"]])
    chosen = candidate_to_compare(mine, args.seed, args.iteration)
    votes = read(args.votes, VOTES, [*VOTES.key, "parse_status"]).join(
        chosen, on=["prompt_id", "candidate_id"], how="semi"
    )
    pairs = comparisons(votes, args.max_comparisons, args.seed, args.iteration)
    # File by file: the judgements of all candidates are many times those of the few that are compared.
    judgements = pl.concat(
        read(path, JUDGEMENTS, ["candidate_id", "vote", "text"]).join(chosen, on="candidate_id", how="semi")
        for path in args.judgements
    )
    hidden = judgements.with_columns(
        pl.Series("text", [redact(text, args.score_pattern) for text in judgements["text"]], dtype=pl.String)
    )
    responses = read(args.candidates, CANDIDATES, ["candidate_id", "text"]).rename({"text": "response"})
    compared = pairs.join(responses, on="candidate_id", validate="m:1")
    for slot in ("a", "b"):
        names = {"vote": f"vote_{slot}", "text": f"judgement_{slot}"}
        compared = compared.join(hidden.rename(names), on=["candidate_id", f"vote_{slot}"], validate="m:1")
    lost = pairs.join(compared, on=_KEYS, how="anti")
    if lost.height:
        raise StageError(
            f"{args.scores}: candidate {lost['candidate_id'][0]} is to be compared, but its text or a judgement is "
            "missing; give all candidates and judgements files of this iteration"
        )
    return with_messages(compared, args.prompts)


def main(args: Args) -> None:
    """Choose, render, encode, sample, write."""
    template = load_template(args.template, META_JUDGE_VARIABLES)
    every = meta_judge_inputs(comparisons_of_shard(args), template, ChatTokenizer(args.model))
    limit = args.engine.max_sequence_length - args.sampling.max_tokens
    inputs = fitting(every, limit)
    over_long = every.join(inputs, on=_KEYS, how="anti")
    asked = ask(inputs, args.seed, args.iteration)
    weights = model_digest(args.model)
    verdicts = generate(
        asked, args.sampling, args.engine, weights, lambda: open_engine(args.model, args.engine), args.output
    )
    files = [args.prompts, *args.candidates, *args.judgements, args.votes, args.scores]
    facts = {"model": weights, "template": template.digest, "seed": args.seed, "iteration": args.iteration}
    origin = describe("meta_judge", args, files, **facts)
    write(inputs, args.model_inputs, META_JUDGE_PROMPTS, origin)
    skipped = not_asked(over_long, limit, args.seed, args.iteration)
    publish(pl.concat([verdicts.select(skipped.columns), skipped]), args.output, VERDICTS, origin)
    counts = f"{every['candidate_id'].n_unique()} candidates, {skipped.height} over-long comparisons not asked"
    print(f"meta_judge: {counts}, {summary(verdicts, 'request_id')}", file=sys.stderr)


if __name__ == "__main__":
    run(Args, main)
