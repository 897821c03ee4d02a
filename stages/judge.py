"""Judge: N judgements of each candidate, by the model itself, as raw text.

Reads   candidates (or ranked answers), the prompts that they answer, the judge template, the model's directory.
Does    renders one judge prompt per candidate and samples `votes` judgements of it, each with its own seed. A response
        that is too long for the model is cut in the middle, visibly; the rubric, the question and the reference answer
        are never cut. Prompts whose responses are scored by checks are left out, unless `verify.judge` is set.
Writes  one row per judgement (JUDGEMENTS), and the exact model input of each candidate (JUDGE_PROMPTS).
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
from pydantic import Field

from stages.config import EngineSettings, JudgeSection, VerifySection
from stages.contracts.artifacts import frame, read, write
from stages.contracts.cli import run
from stages.contracts.errors import StageError
from stages.contracts.ids import Message, judgement_id, seed_for
from stages.contracts.provenance import describe, model_digest
from stages.engines.protocol import open_engine
from stages.engines.resumable import generate, publish, summary, with_messages
from stages.prompting.chat import ChatTokenizer
from stages.prompting.templates import JUDGE_VARIABLES, PromptTemplate, conversation, load_template
from stages.tables import CANDIDATES, JUDGE_PROMPTS, JUDGEMENTS

CUT_MARK = " [...] "


class Args(JudgeSection):
    """Flags of this stage."""

    engine: EngineSettings = Field(EngineSettings(), description="Generation engine.")
    verify: VerifySection = Field(VerifySection(), description="What becomes of prompts with checkable instructions.")
    model: Path = Field(description="Hugging Face directory of the model that judges.")
    candidates: Path = Field(description="Candidates to judge, or ranked answers (Parquet).")
    prompts: Path = Field(description="Prompts of the iteration (Parquet).")
    seed: int = Field(0, description="Seed of the run.")
    iteration: int = Field(1, description="Iteration, from 1.")
    output: Path = Field(description="Output: judgements (Parquet).")
    model_inputs: Path = Field(description="Output: what the model was given (Parquet).")


def judge_inputs(candidates: pl.DataFrame, template: PromptTemplate, chat: ChatTokenizer, limit: int) -> pl.DataFrame:
    """Rows of JUDGE_PROMPTS for candidates (`prompt_id`, `candidate_id`, `messages`, `text`, and `answer` where there
    are answers); none exceeds `limit` tokens. A candidate whose question alone, without any response, is too long has
    no row.

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
        keys = {"prompt_id": row["prompt_id"], "candidate_id": row["candidate_id"]}
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


def ask(inputs: pl.DataFrame, votes: int, seed: int, iteration: int) -> pl.DataFrame:
    """One request per candidate and vote, with the keys of JUDGEMENTS."""
    keys = [
        (candidate, vote, judgement_id(candidate, vote), seed_for(seed, iteration, "judge", candidate, vote))
        for candidate in inputs["candidate_id"]
        for vote in range(votes)
    ]
    schema = {"candidate_id": pl.String, "vote": pl.Int64, "request_id": pl.String, "seed": pl.Int64}
    given = inputs.select("prompt_id", "candidate_id", prompt_token_ids="token_ids")
    return pl.DataFrame(keys, schema=schema, orient="row").join(given, on="candidate_id", validate="m:1")


def left_to_checks(candidates: pl.DataFrame, verify: VerifySection) -> pl.DataFrame:
    """The candidates (with their prompt's `checks`) that are scored by checks and not judged."""
    return candidates.filter(pl.lit(verify.enabled and not verify.judge) & pl.col("checks").is_not_null())


def main(args: Args) -> None:
    """Render, encode, sample, write."""
    candidates = read(args.candidates, CANDIDATES, ["prompt_id", "candidate_id", "text", "finish_reason"])
    candidates = with_messages(candidates, args.prompts, "answer", "checks")
    checked = left_to_checks(candidates, args.verify)
    others = candidates.join(checked, on="candidate_id", how="anti")
    judged = others.filter(pl.col("finish_reason") != "error", pl.col("text").str.strip_chars() != "")
    template = load_template(args.template, JUDGE_VARIABLES)
    limit = args.engine.max_sequence_length - args.sampling.max_tokens
    inputs = judge_inputs(judged, template, ChatTokenizer(args.model), limit)
    asked = ask(inputs, args.votes, args.seed, args.iteration)
    weights = model_digest(args.model)
    judgements = generate(
        asked, args.sampling, args.engine, weights, lambda: open_engine(args.model, args.engine), args.output
    )
    facts = {"model": weights, "template": template.digest, "seed": args.seed, "iteration": args.iteration}
    origin = describe("judge", args, [args.candidates, args.prompts], **facts)
    write(inputs, args.model_inputs, JUDGE_PROMPTS, origin)
    publish(judgements, args.output, JUDGEMENTS, origin)
    counts = f"{inputs.height} candidates judged ({others.height - judged.height} empty or failed ones not, "
    counts += f"{checked.height} of {checked['prompt_id'].n_unique()} prompts left to checks, "
    counts += f"{judged.height - inputs.height} too long even without the response, "
    counts += f"{inputs['shortened'].sum()} shortened)"
    print(f"judge: {counts}, {summary(judgements, 'candidate_id')}", file=sys.stderr)


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


if __name__ == "__main__":
    run(Args, main)
