"""Judge: N judgements of each candidate, by the model itself or another one, as raw text.

Reads:  candidates (or ranked answers), the prompts that they answer, the judge template, the model's directory.
Does:   renders one judge prompt per candidate, without the thoughts before its answer, and samples `votes` judgements
        of it, each with its own seed. A response that is too long for the model is cut in the middle, visibly; the
        rubric, the question and the reference answer are never cut. Prompts whose responses are scored by checks are
        left out, unless `verify.judge` is set. The judges of a `panel` vote in turn.
Writes: one row per judgement (JUDGEMENTS), and the exact model input of each candidate (JUDGE_PROMPTS).
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl
from pydantic import Field

from stages.algorithms.thoughts import answers_of
from stages.config import POLICY, EngineSettings, JudgeSettings, TemplateSettings, VerifySection
from stages.contracts.artifacts import read, read_joined, write
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.ids import Seeds
from stages.contracts.provenance import describe
from stages.engines.resumable import Generator, publish, summary
from stages.prompting.judge_requests import judge_inputs, judge_requests
from stages.prompting.templates import JUDGE_VARIABLES, load_template
from stages.tables import CANDIDATES, JUDGE_PROMPTS, JUDGEMENTS, PROMPTS


class Args(JudgeSettings):
    """Command line of the stage."""

    chat: TemplateSettings = Field(TemplateSettings(), description="How conversations are rendered.")
    engine: EngineSettings = Field(EngineSettings(), description="Generation engine.")
    verify: VerifySection = Field(VerifySection(), description="What becomes of prompts with checkable instructions.")
    model: Path = Field(description="Hugging Face directory of the model that judges.")
    candidates: Path = Field(description="Candidates to judge, or ranked answers (Parquet).")
    prompts: Path = Field(description="Prompts of the iteration (Parquet).")
    judge: str = Field(POLICY, description="Name of the judge.")
    panel: list[str] = Field([], description="Names of all judges, in the order in which they vote; empty: this one.")
    seed: int = Field(0, description="Seed of the run.")
    iteration: int = Field(1, description="Iteration, from 1.")
    output: Path = Field(description="Output: judgements (Parquet).")
    model_inputs: Path = Field(description="Output: what the model was given (Parquet).")


def left_to_checks(candidates: pl.DataFrame, verify: VerifySection) -> pl.DataFrame:
    """The candidates (with their prompt's `checks`) that are scored by checks and not judged."""
    return candidates.filter(pl.lit(verify.enabled and not verify.judge) & pl.col("checks").is_not_null())


def votes_of(judge: str, panel: Sequence[str], votes: int) -> range:
    """The numbers of a judge's votes, where those of a panel vote in turn. StageError if it is none of them."""
    if judge not in panel:
        raise StageError(f"judge {judge!r} is none of the panel: {', '.join(panel)}")
    return range(panel.index(judge), votes, len(panel))


def main(args: Args) -> None:
    """Render, encode, sample, write."""
    candidates = read(args.candidates, CANDIDATES, [*CANDIDATES.key, "text", "finish_reason"])
    candidates = candidates.with_columns(answers_of(candidates["text"]))
    candidates = read_joined(candidates, args.prompts, PROMPTS, ["messages", "answer", "checks"])
    checked = left_to_checks(candidates, args.verify)
    others = candidates.join(checked, on="candidate_id", how="anti")
    judged = others.filter(pl.col("finish_reason") != "error", pl.col("text").str.strip_chars() != "")
    template = load_template(args.template, JUDGE_VARIABLES)
    votes = votes_of(args.judge, args.panel or [args.judge], args.votes)
    with Generator(args.model, args.engine, args.chat) as generator:
        inputs = judge_inputs(judged, template, generator.chat, generator.prompt_limit(args.sampling), args.judge)
        requests = judge_requests(inputs, votes, Seeds(args.seed, args.iteration))
        judgements = generator.complete(requests, args.sampling, args.output)
    facts = {**generator.facts, "template": template.digest, "seed": args.seed, "iteration": args.iteration}
    origin = describe("judge", args, [args.candidates, args.prompts], **facts)
    write(inputs, args.model_inputs, JUDGE_PROMPTS, origin)
    publish(judgements, args.output, JUDGEMENTS, origin)
    counts = f"{inputs.height} candidates judged ({others.height - judged.height} empty or failed ones not, "
    counts += f"{checked.height} of {checked['prompt_id'].n_unique()} prompts left to checks, "
    counts += f"{judged.height - inputs.height} too long even without the response, "
    counts += f"{inputs['shortened'].sum()} shortened)"
    print(f"judge: {counts}, {summary(judgements, 'candidate_id')}", file=sys.stderr)


if __name__ == "__main__":
    run(Args, main)
