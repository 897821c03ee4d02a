"""What a plan rests on, and what it cannot say, in sentences."""

import dataclasses
from collections.abc import Iterator

from stages.config.whole import Config
from stages.forecast import disk, memory
from stages.forecast.data import Data
from stages.forecast.means import CHARACTERS_PER_TOKEN, SECTIONS, Means
from stages.forecast.rates import FORWARD, Rates
from stages.forecast.requests import judged_prompts
from stages.model_files.families import Architecture

LENGTHS = {
    "prompt": ("--prompt-tokens", "prompts"),
    "response": ("--response-tokens", "responses"),
    "judgement": ("--judgement-tokens", "judgements"),
    "verdict": ("--verdict-tokens", "the meta-judge's verdicts"),
    "creation": ("--creation-tokens", "created prompts"),
}
"""Mean lengths that a user may state: flag, and of what."""


def assumptions(config: Config, means: Means, rates: Rates) -> list[str]:
    """What the numbers rest on."""
    lengths = {one.name: getattr(means, one.name) for one in dataclasses.fields(means) if one.name != "shares"}
    known = ", ".join(f"{name} {value:.4g}" for name, value in lengths.items() if value is not None)
    shares = ", ".join(f"{rule} {share:.3g}" for rule, share in means.shares.items())
    speeds = {"generate": rates.generate, "train": rates.train, **rates.measured}
    fast = ", ".join(f"{name} {rate:.4g}" for name, rate in speeds.items() if rate is not None)
    return [
        "jobs: of a run that has not begun; nothing fails",
        "at most: each answer is as long as max_tokens, each prompt as long as the model then has room for, each row "
        "of training as long as megatron.max_sequence_length; every prompt gives its pairs, every comparison is asked",
        f"mean lengths in tokens: {known or 'none is stated'}; templates of {CHARACTERS_PER_TOKEN} characters per "
        "token where prompts were not measured",
        f"shares of what could be: {shares or 'all'}",
        f"tokens per second and device: {fast or 'none is stated'}; the reference's pass is {FORWARD} times "
        "as fast as training",
        "hours: of GPUs, or where there are none of jobs and ranks on CPUs; of generation and training alone",
        *(f"disk, {name}: {formula}" for name, formula in disk.FORMULAS.items()),
        *(f"memory, {name}: {formula}" for name, formula in memory.FORMULAS.items()),
    ]


def unknown(config: Config, data: Data, means: Means, rates: Rates, model: Architecture | None) -> list[str]:
    """What is not known, and what would tell."""
    return [*data.missing, *_lengths(config, data, means), *_rates(rates), *_model(config, model)]


def _lengths(config: Config, data: Data, means: Means) -> Iterator[str]:
    sections = {section for section, _ in config.generating()}
    if not config.tests_the_judge and judged_prompts(config, data, 1).most == 0:
        sections -= {"judge"}  # all prompts carry checks
    lacking = [
        words
        for name, words in LENGTHS.items()
        if getattr(means, name) is None and SECTIONS.get(name, "candidates") in sections
    ]
    for flag, what in lacking:
        yield f"how long {what} are, and so what to expect of their tokens: state {flag}, or name a run with --like"


def _rates(rates: Rates) -> Iterator[str]:
    for rule, flag in (("candidates", "--tokens-per-second-generate"), ("train", "--tokens-per-second-train")):
        if rates.of(rule) is None:
            yield f"how many hours {rule} takes: state {flag}, or name a run with --like"


def _model(config: Config, model: Architecture | None) -> Iterator[str]:
    if model is None:
        yield f"{config.run.model}: no config.json there, so that weights, memory and the disk of models are not known"
