"""The rules of Self-Rewarding (arXiv 2401.10020), one golden case each, worked out by hand.

Rules that have theirs elsewhere: the seed data (section 3.1) in `test_openassistant.py`, its disjoint parts in
`test_ranked.py`; the loss on the answer alone in `test_prior_failures_training.py`; DPO in `test_losses.py`; which
model writes, judges, is trained from and is the reference (section 2.4) in `test_presets.py`.
"""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from stages.algorithms.aggregation import aggregate
from stages.algorithms.agreement import balance
from stages.algorithms.pair_outcomes import actor_outcomes
from stages.algorithms.statistics import best_with_top_score, in_exact_order, pairs_in_order, rank_correlations
from stages.algorithms.votes_and_battles import parse_votes
from stages.config import CreateSection, PairsSection, ScoreSection
from stages.contracts.ids import Seeds
from stages.contracts.schema import frame
from stages.create import Example, draw
from stages.filter_prompts import Text, sift
from stages.prompting.templates import load_template
from stages.tables import CANDIDATES, JUDGEMENTS, PROMPTS
from tests.support.judged_answers import Judged, reasons

ROOT = Path(__file__).parents[2]
Said = dict[str, list[str]]
"""What a judge said of each candidate, vote by vote."""

# --- section 3.1, seed data: judgements that agree with people, and no score much more often than others -----------


def test_only_votes_that_rank_all_answers_as_people_did_are_learned_from() -> None:
    """The prior system had no such data (D33)."""
    judged: Judged = ([0, 1, 1], {0: [5, 3, 4, 4], 1: [2, 4, 4, 2], 2: [3, 1, 1, None]})
    by_vote = {
        0: ["kept", "kept", "kept"],  # 5 > 2 and 5 > 3; the order of the tied two is free
        1: ["disagrees"] * 3,
        2: ["tie"] * 3,
        3: ["incomplete", "incomplete", "unparsed"],
    }
    wanted = {(f"p-{number}", vote): by_vote[vote][number] for vote in by_vote for number in range(3)}
    assert reasons({"p": judged}, "order") == wanted


def test_a_score_that_dominates_is_thinned() -> None:
    """Ten 4s, three 3s, two 5s, one 2: with four 4s, their share is 4 / 10; with five it would be 5 / 11."""
    scores = [4.0] * 10 + [3.0] * 3 + [5.0] * 2 + [2.0]
    number, none = pl.int_range(pl.len()), pl.lit(None, pl.String)
    judgements = pl.DataFrame({"score": scores}).with_columns(
        prompt_id=pl.lit("p"), candidate_id=number.cast(pl.String), vote=0, draw=number, reason=none, detail=none
    )
    thinned = balance(judgements, max_class_share=0.4)
    assert Counter(thinned.filter(pl.col("reason").is_null())["score"]) == {4: 4, 3: 3, 5: 2, 2: 1}
    assert Counter(thinned["reason"]) == {None: 10, "class_share": 6}


# --- section 2.2, new prompts: few-shot prompting and the filters of Self-Instruct ---------------------------------


def test_a_new_prompt_is_asked_for_after_six_seed_examples_and_two_created_ones() -> None:
    settings = CreateSection()
    assert (settings.sampling.temperature, settings.sampling.top_p) == (0.6, 0.9)
    seeds, made = ([Example(f"{kind}-{number}", "") for number in range(20)] for kind in ("seed", "made"))
    shots = draw(seeds, made, settings.pool_shots, settings.created_shots, seed=0)
    assert Counter(shot.prompt_id.partition("-")[0] for shot in set(shots)) == {"seed": 6, "made": 2}


def test_a_new_prompt_that_is_too_like_another_or_asks_for_an_image_is_dropped() -> None:
    known = [Text("p", "one two three four five six seven eight nine ten")]
    written = {
        "1": "one two three four five six seven and no more",  # 7 of 10 words in order: ROUGE-L 2 * 7 / 20 = 0.7
        "2": "one two three four five six seven eight or more",  # 2 * 8 / 20 = 0.8
        "3": "ten nine eight seven six five four three two one",  # the same words, 1 in order
        "4": "Describe what this image shows",
        "5": "Why?",
    }
    rows = {"creation_id": list(written), "text": list(written.values()), "finish_reason": ["stop"] * len(written)}
    kept, dropped = sift(pl.DataFrame(rows), known, CreateSection())
    assert [text.key for text in kept] == ["1", "3"]
    assert dropped["2"] == ("similar", "0.800 to p")
    assert {key: reason for key, (reason, _) in dropped.items()} == {"2": "similar", "4": "keyword", "5": "short"}


# --- sections 2.2 and 2.3: the model judges its answers, and the best and the worst one form a pair ----------------


def scores(said: Said) -> pl.DataFrame:
    """Rows of table `scores` of the prompt p."""
    rows = [
        {"prompt_id": "p", "candidate_id": name, "vote": vote, "seed": 0, "text": text, "token_ids": [], "tokens": 0,
         "finish_reason": "stop"}
        for name, texts in said.items()
        for vote, text in enumerate(texts)
    ]  # fmt: skip
    settings = ScoreSection()
    return aggregate(parse_votes(frame(JUDGEMENTS, rows), settings), settings.aggregate, settings.min_votes)


def outcome(said: Said) -> dict[str, object]:
    """What becomes of the prompt p; each candidate is longer than the one before."""
    rows = [
        {"prompt_id": "p", "candidate_id": name, "iteration": 1, "sample": sample, "seed": 0, "text": name,
         "token_ids": [], "tokens": 10 * (sample + 1), "finish_reason": "stop"}
        for sample, name in enumerate(said)
    ]  # fmt: skip
    prompts = frame(PROMPTS, [{"prompt_id": "p", "messages": [], "split": "train", "source": "", "row": 1}])
    earlier = pl.DataFrame(schema=dict.fromkeys(("prompt_id", "chosen_text", "rejected_text", "earlier"), pl.String))
    found = actor_outcomes(prompts, frame(CANDIDATES, rows), scores(said), earlier, PairsSection(), seeds=Seeds(0, 1))
    return found.row(0, named=True)


def points(*numbers: int) -> list[str]:
    return [f"It earns these points.\nScore: {number}" for number in numbers]


def test_the_judge_is_asked_to_add_up_five_points() -> None:
    shown = load_template(ROOT / "prompts/judge.jinja", {"conversation", "response"}).render(
        conversation="Why?", response="Because."
    )
    assert re.findall(r"^- 1 (?:more )?point if", shown, re.MULTILINE) == ["- 1 point if"] + ["- 1 more point if"] * 4


def test_a_score_is_the_mean_of_the_sampled_judgements() -> None:
    found = scores(
        {
            "a": points(4, 3, 4),
            "b": ["It claims 'Score: 5'.\nScore: 2", "I like it.", "Score: 6"],  # the last two give no vote
        }
    )
    assert found.select("candidate_id", "valid_votes").rows() == [("a", 3), ("b", 1)]
    assert found["score"].to_list() == pytest.approx([11 / 3, 2])


def test_the_highest_mean_is_chosen_and_the_lowest_rejected_whatever_their_length() -> None:
    """Means 5/3, 4/3, 4, 13/3: neither the single best nor the single worst vote decides, nor does length."""
    row = outcome({"w": points(0, 3, 2), "x": points(1, 1, 2), "y": points(5, 5, 2), "z": points(5, 4, 4)})
    assert (row["chosen_candidate_id"], row["rejected_candidate_id"], row["reason"]) == ("z", "x", None)


def test_a_prompt_whose_candidates_all_have_the_same_mean_gives_no_pair() -> None:
    row = outcome({"w": points(1, 3, 5), "x": points(3, 3, 3), "y": points(2, 3, 4), "z": points(4, 4, 1)})
    assert (row["reason"], row["detail"]) == ("tie", "all 4 scores are 3.0")


# --- table 4: how a judge is measured against people ---------------------------------------------------------------


def test_the_five_numbers_of_a_judge() -> None:
    """Scores 5, 3, 4, 5 of the answers that people ranked first to fourth.

    Of six pairs 2 are in order, 3 are not, and 1 is a tie. Ranks of the scores are 3.5, 1, 2, 3.5, those of people 4,
    3, 2, 1: covariance -1/2, variances 9/2 and 5.
    """
    given, ranks = np.array([5.0, 3.0, 4.0, 5.0]), np.array([0, 1, 2, 3])
    assert pairs_in_order(given, ranks) == (2.5, 6)
    assert best_with_top_score(given, ranks, top=5) == (1, 2)
    assert (in_exact_order(given, ranks), in_exact_order(given, np.array([0, 2, 1, 0]))) == (False, True)
    assert rank_correlations(given, ranks) == pytest.approx((-0.5 / (4.5 * 5) ** 0.5, (2 - 3) / (5 * 6) ** 0.5))
