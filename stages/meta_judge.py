"""Meta-judge: the model compares its own judgements of one response per prompt, as raw text.

Reads:  prompts, candidates, judgements (raw), votes and scores of the iteration, the meta-judge template, the model.
Does:   per prompt of its shard, takes the candidate whose votes vary most, and asks for the better judgement of each
        pair of its judgements, in both orders (Meta-Rewarding, section 2.2), with the scores hidden if `hide_scores`
        is set. Pairs that do not fit the model, or are the same to see, are not asked; their verdict says so.
Writes: one row per comparison (VERDICTS), and its exact model input (META_JUDGE_PROMPTS).
"""

import sys
from pathlib import Path

import polars as pl
from pydantic import Field

from stages.algorithms.comparisons import candidate_to_compare, comparisons
from stages.algorithms.thoughts import answers_of
from stages.algorithms.votes_and_battles import shown_to_meta_judge
from stages.config import EngineSettings, MetaJudgeSettings, ScoreSection, TemplateSettings
from stages.contracts.artifacts import read, read_joined, read_matching, write
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.files import Shards
from stages.contracts.ids import Seeds, shard_of
from stages.contracts.provenance import describe
from stages.engines.resumable import Generator, publish, summary
from stages.prompting.meta_judge_requests import fitting, meta_judge_inputs, meta_judge_requests, not_asked
from stages.prompting.templates import META_JUDGE_VARIABLES, load_template
from stages.tables import CANDIDATES, JUDGEMENTS, META_JUDGE_PROMPTS, PROMPTS, SCORES, VERDICTS, VOTES


class Args(MetaJudgeSettings):
    """Command line of the stage."""

    chat: TemplateSettings = Field(TemplateSettings(), description="How conversations are rendered.")
    engine: EngineSettings = Field(EngineSettings(), description="Generation engine.")
    model: Path = Field(description="Hugging Face directory of the model that compares.")
    prompts: Path = Field(description="Prompts of the iteration (Parquet).")
    candidates: Shards = Field(min_length=1, description="Candidates: Parquet files.")
    judgements: Shards = Field(min_length=1, description="Judgements: Parquet files.")
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


def comparisons_of_shard(args: Args, seeds: Seeds) -> pl.DataFrame:
    """What to compare: keys, `messages`, `response`, and both judgements as they are shown."""
    scores = read(args.scores, SCORES)
    mine = scores.filter([shard_of(prompt, args.shards) == args.shard for prompt in scores["prompt_id"]])
    chosen = candidate_to_compare(mine, seeds)
    votes = read_matching([args.votes], VOTES, [*VOTES.key, "parse_status"], chosen, SCORES.key)
    pairs = comparisons(votes, args.max_comparisons, seeds)
    judgements = read_matching(args.judgements, JUDGEMENTS, [*JUDGEMENTS.key, "text"], chosen, SCORES.key)
    hidden = shown_to_meta_judge(judgements, args.score_pattern if args.hide_scores else None)
    responses = read(args.candidates, CANDIDATES, ["candidate_id", "text"]).rename({"text": "response"})
    responses = responses.with_columns(answers_of(responses["response"]))
    compared = pairs.join(responses, on="candidate_id", validate="m:1")
    for slot in ("a", "b"):
        names = {"vote": f"vote_{slot}", "text": f"judgement_{slot}"}
        compared = compared.join(hidden.rename(names), on=["candidate_id", f"vote_{slot}"], validate="m:1")
    lost = pairs.join(compared, on=VERDICTS.key, how="anti")
    if lost.height:
        raise StageError(
            f"{args.scores}: candidate {lost['candidate_id'][0]} is to be compared, but its text or a judgement is "
            "missing; give all candidates and judgements files of this iteration"
        )
    return read_joined(compared, args.prompts, PROMPTS, ["messages"])


def main(args: Args) -> None:
    """Choose, render, encode, sample, write."""
    seeds = Seeds(args.seed, args.iteration)
    template = load_template(args.template, META_JUDGE_VARIABLES)
    compared = comparisons_of_shard(args, seeds)
    alike = compared.filter(pl.col("judgement_a") == pl.col("judgement_b"))
    with Generator(args.model, args.engine, args.chat) as generator:
        limit = generator.prompt_limit(args.sampling)
        different = compared.join(alike, on=VERDICTS.key, how="anti")
        every = meta_judge_inputs(different, template, generator.chat)
        inputs = fitting(every, limit)
        verdicts = generator.complete(meta_judge_requests(inputs, seeds), args.sampling, args.output)
    over_long = every.join(inputs, on=VERDICTS.key, how="anti")
    unasked = [
        not_asked(over_long, "error", f"longer than {limit} tokens in one of both orders", seeds),
        not_asked(alike, "alike", "the judgements differ in nothing but what is hidden of them", seeds),
    ]
    files = [args.prompts, *args.candidates, *args.judgements, args.votes, args.scores]
    facts = {**generator.facts, "template": template.digest, "seed": args.seed, "iteration": args.iteration}
    origin = describe("meta_judge", args, files, **facts)
    write(inputs, args.model_inputs, META_JUDGE_PROMPTS, origin)
    publish(pl.concat([verdicts.select(unasked[0].columns), *unasked]), args.output, VERDICTS, origin)
    counts = f"{compared['candidate_id'].n_unique()} candidates, {over_long.height} over-long comparisons and "
    counts += f"{alike.height} of judgements that differ in their scores alone not asked"
    print(f"meta_judge: {counts}, {summary(verdicts, 'request_id')}", file=sys.stderr)


if __name__ == "__main__":
    run(Args, main)
