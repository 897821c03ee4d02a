"""Plan: what a run will take, before anything runs: jobs, requests, tokens, hours, disk, memory.

    python -m stages.plan CONFIG [CONFIG ...]
    python -m stages.plan CONFIG --like results/tinyworld
    python -m stages.plan CONFIG --response-tokens 500 --tokens-per-second-generate 2500

Reads:  the configuration, later files laid over earlier ones as by Snakemake's --configfile; the data that it names, to
        count rows; the model's config.json; with --like the tables and clocks of an earlier run.
Does:   computes (docs/planning.md): the most of everything from limits, what to expect from mean lengths and rates that
        are stated or were measured. What nothing says is told, not guessed. Refuses what Snakemake would refuse.
Writes: a page, or JSON, to standard output; no file.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat
from rich.console import Console

from stages.config import Section
from stages.config.whole import Config
from stages.contracts.cli import checked, errors_told
from stages.forecast.configuration import configured
from stages.forecast.data import counted
from stages.forecast.document import document
from stages.forecast.earlier import earlier_means, earlier_rates
from stages.forecast.means import Means, check_means, completed, or_else
from stages.forecast.pages import plan_page
from stages.forecast.rates import Rates
from stages.inspection.plain import as_json, harmless
from stages.inspection.run_folder import opened
from stages.model_files.config import read_config
from stages.planning.checks import check_chat, check_model, check_sampling, check_templates

WIDTH = 140
"""Characters of a line where the output is no terminal."""


class Args(Section):
    """Command line of the stage."""

    configs: list[Path] = Field(description="Configuration files; later ones win.")
    like: Path | None = Field(None, description="Folder of an earlier run whose lengths, shares and speeds to expect.")
    prompt_tokens: PositiveFloat | None = Field(None, description="Mean length of the prompts.")
    response_tokens: PositiveFloat | None = Field(None, description="Mean length of the responses.")
    judgement_tokens: PositiveFloat | None = Field(None, description="Mean length of the judgements.")
    verdict_tokens: PositiveFloat | None = Field(None, description="Mean length of the meta-judge's verdicts.")
    creation_tokens: PositiveFloat | None = Field(None, description="Mean length of created prompts.")
    tokens_per_second_generate: PositiveFloat | None = Field(
        None, description="Tokens that a device generates per second, over all requests in flight."
    )
    tokens_per_second_train: PositiveFloat | None = Field(
        None, description="Tokens that a device trains on per second, those of prompts included."
    )
    script: bool = Field(False, description="Print JSON.")


def parsed(words: list[str]) -> Args:
    """The command line. Ends the program for one that lacks something."""
    parser = argparse.ArgumentParser(
        prog="python -m stages.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help=Args.model_fields["configs"].description)
    for name in [name for name in Args.model_fields if name not in ("configs", "script")]:
        metavar = "RUN" if name == "like" else "N"
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, dest=name, metavar=metavar, help=Args.model_fields[name].description)
    parser.add_argument("--json", dest="script", action="store_true", help=Args.model_fields["script"].description)
    return checked(Args, vars(parser.parse_args(words)))


def planned(args: Args, config: Config) -> dict[str, Any]:
    """The plan as plain values; StageError for what cannot be read, or would be refused."""
    for check in (check_templates, check_chat, check_sampling, check_model):
        check(config)
    stated = Means(
        prompt=args.prompt_tokens,
        response=args.response_tokens,
        judgement=args.judgement_tokens,
        verdict=args.verdict_tokens,
        creation=args.creation_tokens,
    )
    run = opened(args.like) if args.like else None
    means = or_else(stated, earlier_means(run) if run else Means())
    check_means(means, config)
    measured = earlier_rates(run) if run else {}
    rates = Rates(args.tokens_per_second_generate, args.tokens_per_second_train, measured)
    model = read_config(config.run.model) if (config.run.model / "config.json").exists() else None
    plan = document(config, counted(config), completed(means, config), rates, model)
    plan["unknown"] += run.problems if run else []
    return plan


def main(args: Args) -> None:
    """Compute and print."""
    console = Console(markup=False, emoji=False, highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    plan = planned(args, configured(args.configs))
    if args.script:
        console.out(as_json(plan), highlight=False)
    else:
        console.print(plan_page(harmless(plan)))


if __name__ == "__main__":
    with errors_told():
        main(parsed(sys.argv[1:]))
