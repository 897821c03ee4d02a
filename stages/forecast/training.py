"""What each training learns from: pairs or examples, and their tokens. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, comb

from stages.algorithms.pair_mix import shares, usable
from stages.config import at
from stages.config.whole import Config
from stages.forecast.amounts import Amount, exactly
from stages.forecast.data import Data
from stages.forecast.jobs import ONCE
from stages.forecast.means import Means
from stages.forecast.requests import judged_prompts


@dataclass(frozen=True)
class Trained:
    """A training, or a pass forward alone."""

    iteration: int
    rule: str
    rows: Amount
    """Pairs, or supervised examples."""
    steps: Amount
    tokens: Amount
    """Of all rows over all epochs; both members of a pair count their prompt."""


def trainings(config: Config, data: Data, means: Means) -> Iterator[Trained]:
    """All trainings of a run and the reference's passes; `means` are complete."""
    if config.eft.enabled:
        yield from _supervised(config, data, means)
    for iteration in range(1, config.run.iterations + 1):
        yield from _preferences(config, data, means, iteration)


def _supervised(config: Config, data: Data, means: Means) -> Iterator[Trained]:
    """IFT alone where there is some, then IFT and the judgements: at most all of them, or `max_judgements`."""
    eft, longest = config.eft, config.megatron.max_sequence_length
    votes = None if data.ranked is None else data.ranked * eft.votes
    kept = votes if votes is None or eft.max_judgements is None else min(votes, eft.max_judgements)
    judgements = exactly(kept).times(means.share("sft"), 1)
    ift = exactly(data.ift if eft.ift_fraction else 0)
    ift_tokens = ift.times(_sum(means.prompt, means.response), longest)
    all_tokens = ift_tokens + judgements.times(_sum(means.judge_prompt, means.judgement), longest)
    if eft.ift_fraction:
        yield _training(ONCE, "sft", ift, ift_tokens, eft.epochs, eft.batch_size)
    yield _training(ONCE, "sft", ift + judgements, all_tokens, eft.epochs, eft.batch_size)


def _preferences(config: Config, data: Data, means: Means, iteration: int) -> Iterator[Trained]:
    actor, judge = pairs(config, data, iteration)
    share, longest = means.share("train"), config.megatron.max_sequence_length
    answers = exactly(actor).times(share, 1).by(2).times(_sum(means.prompt, means.response), longest)
    judgements = exactly(judge).times(share, 1).by(2).times(_sum(means.judge_prompt, means.judgement), longest)
    rows, tokens = exactly(actor + judge).times(share, 1), answers + judgements
    yield Trained(iteration, "reference_logprobs", rows, exactly(0), tokens)
    yield _training(iteration, "train", rows, tokens, config.train.epochs, config.train.batch_size)


def pairs(config: Config, data: Data, iteration: int) -> tuple[int, int]:
    """Most actor and judge pairs of an iteration: of each prompt one, or all C(K, 2) up to `max_pairs_per_prompt`, and
    of each judged one a pair of judgements, mixed as `pairs` mixes them."""
    settings, samples = config.pairs, config.candidates.samples
    prompts = at(config.select.prompts, iteration)
    each = min(comb(samples, 2), settings.max_pairs_per_prompt or comb(samples, 2))
    actor = prompts * (each if settings.per_prompt == "all" else 1)
    judged = int(judged_prompts(config, data, prompts).most or 0) if at(config.meta_judge.enabled, iteration) else 0
    return shares(actor, usable([judged], 1.0), at(settings.judge_share, iteration), settings.max_pairs)


def _training(iteration: int, rule: str, rows: Amount, tokens: Amount, epochs: int, batch: int) -> Trained:
    steps = Amount(_steps(rows.expected, batch), _steps(rows.most, batch))
    return Trained(iteration, rule, rows, steps.by(epochs), tokens.by(epochs))


def _steps(rows: float | None, batch: int) -> float | None:
    return None if rows is None else ceil(rows / batch)


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
