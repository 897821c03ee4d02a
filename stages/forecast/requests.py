"""What each generating stage asks of a model: requests, and the tokens that go in and come out. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import comb

from stages.config import EngineSettings, Sampling, at
from stages.config.whole import Config
from stages.forecast.amounts import Amount, exactly
from stages.forecast.data import Data
from stages.forecast.jobs import ONCE
from stages.forecast.means import Means


@dataclass(frozen=True)
class Asked:
    """Requests of one kind in an iteration; tokens are those of all of them."""

    iteration: int
    rule: str
    requests: Amount
    prompt_tokens: Amount
    """Tokens given to the model; requests that share a prompt each count it."""
    generated_tokens: Amount
    kept_tokens: Amount
    """Tokens that tables keep: each distinct prompt once, and what was generated."""


@dataclass(frozen=True)
class _Kind:
    """What requests of a kind have in common: a prompt is at most what leaves room for the answer."""

    sampling: Sampling
    engine: EngineSettings
    prompt: float | None
    answer: float | None

    def asked(self, iteration: int, rule: str, inputs: Amount, each: int) -> Asked:
        """`each` requests on every one of `inputs` prompts."""
        requests = inputs.by(each)
        room = self.engine.max_sequence_length - self.sampling.max_tokens
        generated = requests.times(self.answer, self.sampling.max_tokens)
        kept = inputs.times(self.prompt, room) + generated
        return Asked(iteration, rule, requests, requests.times(self.prompt, room), generated, kept)


def requests(config: Config, data: Data, means: Means) -> list[Asked]:
    """All that a run asks; `means` are complete. Stages ask once for what fails nowhere: retries are not counted."""
    found = list(_before(config, data, means))
    for iteration in range(1, config.run.iterations + 1):
        found += _iteration(config, data, means, iteration)
    return found


def _before(config: Config, data: Data, means: Means) -> Iterator[Asked]:
    """EFT, and the measuring of the base model and of model 0."""
    if config.eft.enabled:
        yield _judging(config, means).asked(ONCE, "eft_judge", exactly(data.ranked), config.eft.votes)
        yield from _evaluation(config, data, means, ONCE)
    yield from _evaluation(config, data, means, ONCE)


def _iteration(config: Config, data: Data, means: Means, iteration: int) -> Iterator[Asked]:
    prompts, samples = at(config.select.prompts, iteration), config.candidates.samples
    if at(config.create.enabled, iteration):
        kind = _Kind(config.create.sampling, config.writer.engine, means.create_prompt, means.creation)
        yield kind.asked(iteration, "create", exactly(at(config.create.count, iteration)), 1)
    kind = _Kind(config.candidates.sampling, config.actor.engine, means.prompt, means.response)
    yield kind.asked(iteration, "candidates", exactly(prompts), samples)
    for role in config.judges.values():
        kind = _Kind(config.judge.sampling, role.engine, means.judge_prompt, means.judgement)
        judged = judged_prompts(config, data, prompts).by(samples)
        yield kind.asked(iteration, "judge", judged, config.judge.votes // len(config.judges))
    if at(config.meta_judge.enabled, iteration):
        kind = _Kind(config.meta_judge.sampling, config.meta_judges.engine, means.meta_judge_prompt, means.verdict)
        compared = judged_prompts(config, data, prompts).by(comparisons(config))
        yield kind.asked(iteration, "meta_judge", compared.times(means.share("meta_judge"), 1), 1)
    yield from _evaluation(config, data, means, iteration)


def _evaluation(config: Config, data: Data, means: Means, iteration: int) -> Iterator[Asked]:
    """One model: sampled answers and a greedy one, votes on the judge's test set, comparisons of those judgements."""
    settings, engine = config.evaluate, config.actor.engine
    answers = _Kind(settings.sampling, engine, means.prompt, means.response)
    held_out = data.held_out
    if held_out is not None and settings.max_prompts is not None:
        held_out = min(held_out, settings.max_prompts)
    yield answers.asked(iteration, "evaluate", Amount(held_out, settings.max_prompts or held_out), settings.samples + 1)
    if config.tests_the_judge:
        yield _judging(config, means).asked(iteration, "evaluate", exactly(data.tests), settings.judge_votes)
        compared = _Kind(config.meta_judge.sampling, engine, means.meta_judge_prompt, means.verdict)
        yield compared.asked(iteration, "evaluate", exactly(2 * settings.meta_comparisons), 1)


def _judging(config: Config, means: Means) -> _Kind:
    """The policy as judge."""
    return _Kind(config.judge.sampling, config.actor.engine, means.judge_prompt, means.judgement)


def judged_prompts(config: Config, data: Data, prompts: int) -> Amount:
    """Prompts whose candidates are judged: all, or those without checks (where no file says how many, at most all)."""
    if not config.verify.enabled or config.verify.judge or data.checked_share == 0:
        return exactly(prompts)
    if data.checked_share == 1:
        return exactly(0)
    return Amount(None if data.checked_share is None else round(prompts * (1 - data.checked_share)), prompts)


def comparisons(config: Config) -> int:
    """Most comparisons of a prompt: of one candidate, each two of its N votes in both orders, 2 C(N, 2), or
    2 `max_comparisons`."""
    pairs = comb(config.judge.votes, 2)
    return 2 * min(pairs, config.meta_judge.max_comparisons or pairs)
