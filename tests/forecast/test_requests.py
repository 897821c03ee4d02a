"""Requests, pairs and tokens of small configurations, worked out by hand."""

from typing import Any

from stages.forecast.amounts import Amount, exactly
from stages.forecast.data import Data
from stages.forecast.means import Means, completed
from stages.forecast.requests import Asked, requests
from stages.forecast.training import Trained, pairs, trainings
from tests.support.small_plan import EFT, MEANS, small
from tests.support.workflow_run import merge


def one(found: list[Any], iteration: int, rule: str) -> Any:
    (only,) = [part for part in found if (part.iteration, part.rule) == (iteration, rule)]
    return only


def test_candidates_and_judgements() -> None:
    found = requests(small(), Data(held_out=5), MEANS)
    assert one(found, 1, "candidates") == Asked(
        1,
        "candidates",
        requests=exactly(40),
        prompt_tokens=Amount(40 * 20, 40 * 900),
        generated_tokens=Amount(40 * 30, 40 * 100),
        kept_tokens=Amount(10 * 20 + 40 * 30, 10 * 900 + 40 * 100),
    )
    judged = one(found, 2, "judge")
    assert judged.requests == exactly(20 * 4 * 3)
    assert judged.prompt_tokens == Amount(240 * 90, 240 * 950)
    assert judged.kept_tokens == Amount(80 * 90 + 240 * 25, 80 * 950 + 240 * 50)


def test_comparisons_are_pairs_of_votes_in_both_orders() -> None:
    found = requests(small(), Data(), MEANS)
    assert one(found, 1, "meta_judge").requests == Amount(30, 60)
    assert one(found, 1, "meta_judge").generated_tokens == Amount(30 * 40, 60 * 80)
    assert not [part for part in found if part.rule == "meta_judge" and part.iteration == 2]
    limited = requests(small(meta_judge={"max_comparisons": 2}), Data(), Means())
    assert one(limited, 1, "meta_judge").requests == exactly(40)


def test_a_panel_shares_the_votes() -> None:
    found = requests(
        small(meta_judge={"enabled": False}, judge={"panel": {"a": {}, "b": {}, "c": {}}}, pairs={"judge_share": 0.0}),
        Data(),
        MEANS,
    )
    judges = [part for part in found if (part.iteration, part.rule) == (1, "judge")]
    assert [part.requests for part in judges] == [exactly(40)] * 3


def test_creations_and_evaluation() -> None:
    found = requests(small(), Data(held_out=5), MEANS)
    assert one(found, 2, "create").generated_tokens == Amount(7 * 15, 7 * 60)
    assert one(found, 0, "evaluate").requests == exactly(5 * 3)
    limited = small(evaluate={"max_prompts": 4})
    assert one(requests(limited, Data(held_out=5), MEANS), 1, "evaluate").requests == exactly(4 * 3)
    unread = requests(limited, Data(held_out=None), MEANS)
    assert one(unread, 1, "evaluate").requests == Amount(None, 4 * 3), "max_prompts bounds what was not counted"


def test_eft_and_what_it_measures() -> None:
    found = requests(small(**EFT), Data(held_out=5, ranked=12, tests=6, ift=0), MEANS)
    assert one(found, 0, "eft_judge").requests == exactly(24)
    measured = [part.requests for part in found if (part.iteration, part.rule) == (0, "evaluate")]
    assert measured == [exactly(15), exactly(12), exactly(10)] * 2, "the base model and model 0"


def test_prompts_with_checks_are_not_judged() -> None:
    verified = small(verify={"enabled": True})
    assert one(requests(verified, Data(checked_share=1.0), MEANS), 1, "judge").requests == exactly(0)
    assert one(requests(verified, Data(checked_share=0.4), MEANS), 1, "judge").requests == Amount(6 * 12, 10 * 12)
    assert one(requests(verified, Data(checked_share=None), MEANS), 1, "judge").requests == Amount(None, 10 * 12)
    both = small(verify={"enabled": True, "judge": True})
    assert one(requests(both, Data(checked_share=1.0), MEANS), 1, "judge").requests == exactly(120)


def test_what_nobody_says_is_unknown() -> None:
    asked = one(requests(small(), Data(held_out=5), Means()), 1, "candidates")
    assert asked.requests == exactly(40)
    assert asked.generated_tokens == Amount(None, 4000)


def test_lengths_follow_from_others() -> None:
    config = small()
    means = completed(Means(prompt=20, response=30, judgement=25), config)
    template = len(config.judge.template.read_text(encoding="utf-8")) / 4
    meta_template = len(config.meta_judge.template.read_text(encoding="utf-8")) / 4
    assert means.judge_prompt == template + 50
    assert means.meta_judge_prompt == meta_template + 100
    assert completed(Means(prompt=20), config).judge_prompt is None
    assert completed(MEANS, config) == MEANS


def test_pairs_and_training() -> None:
    config = small()
    assert [pairs(config, Data(), t) for t in (1, 2)] == [(10, 3), (20, 0)], "3 / 13 is nearer to 0.2 than 2 / 12"
    found: list[Trained] = list(trainings(config, Data(), MEANS))
    tokens = Amount((0.5 * 10 * 2 * 50) + (0.5 * 3 * 2 * 115), 13 * 2 * 1000)
    assert one(found, 1, "reference_logprobs").tokens == tokens
    assert one(found, 1, "train") == Trained(1, "train", Amount(6.5, 13), Amount(2 * 2, 2 * 4), tokens.by(2))


def test_all_pairs_of_a_prompt() -> None:
    every = {"per_prompt": "all", "judge_share": 0.0}
    assert pairs(small(pairs=every), Data(), 1) == (60, 0)
    assert pairs(small(pairs={**every, "max_pairs_per_prompt": 3}), Data(), 1) == (30, 0)
    assert pairs(small(pairs={**every, "max_pairs": 7}), Data(), 1) == (7, 0)


def test_supervised_training() -> None:
    data = Data(ranked=12, ift=4)
    (sft,) = [part for part in trainings(small(**EFT), data, MEANS) if part.rule == "sft"]
    assert sft == Trained(0, "sft", Amount(6, 24), Amount(1, 3), Amount(6 * 115, 24 * 1000))
    with_ift = small(**merge(EFT, {"eft": {"ift_fraction": 0.1, "max_judgements": 20}}))
    first, second = [part for part in trainings(with_ift, data, MEANS) if part.rule == "sft"]
    assert first.tokens == Amount(4 * 50, 4 * 1000)
    assert second.rows == Amount(4 + 5, 24)
