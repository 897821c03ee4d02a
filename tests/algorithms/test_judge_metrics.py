"""Judge and meta-judge in numbers, by hand, and the pairs of judgements of which one is known to be better."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.algorithms.judge_metrics import judge_metrics, known_comparisons, meta_metrics, vote_errors
from stages.config import ScoreSection
from stages.contracts.ids import Seeds
from stages.contracts.schema import frame
from stages.tables import (
    JUDGE_EVALUATIONS,
    META_EVALUATIONS,
    VOTES,
)

Answer = tuple[int, list[float | None], float | None]
"""Rank, votes, reference score."""


def tables(prompts: Sequence[Sequence[Answer]]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """JUDGE_EVALUATIONS and VOTES of prompts `p0`, `p1`, ... with answers `p0-0`, `p0-1`, ..."""
    judged, votes = [], []
    for number, answers in enumerate(prompts):
        for sample, (rank, given_votes, quality) in enumerate(answers):
            key = {"prompt_id": f"p{number}", "candidate_id": f"p{number}-{sample}"}
            valid = [vote for vote in given_votes if vote is not None]
            score = sum(valid) / len(valid) if valid else None
            numbers = {"score": score, "first_score": given_votes[0], "valid_votes": len(valid)}
            judged.append({**key, "rank": rank, "quality": quality, **numbers})
            votes += [
                {**key, "vote": vote, "score": value, "parse_status": "no_match" if value is None else "ok",
                 "finish_reason": "stop", "tokens": 1}
                for vote, value in enumerate(given_votes)
            ]  # fmt: skip
    return frame(JUDGE_EVALUATIONS, judged), frame(VOTES, votes)


def metrics(prompts: Sequence[Sequence[Answer]], **settings: Any) -> dict[str, tuple[float, int]]:
    """Value and number of prompts of each metric."""
    rows = judge_metrics(*tables(prompts), ScoreSection(**settings))
    return {row["metric"]: (row["value"], row["n"]) for row in rows}


def test_judge_metrics_by_hand() -> None:
    prompts: list[list[Answer]] = [
        [(0, [5, 5], 5.0), (1, [3, 4], 3.0), (2, [1, 1], 2.0)],  # in order
        [(0, [2, 4], 3.0), (1, [5, 5], 4.0)],  # the wrong way round, and a perfect score for the worse one
        [(0, [4, 4], None), (1, [4, 4], None), (1, [4, 4], None)],  # all alike
        [(0, [1, 1], 1.0), (0, [2, 2], 1.0)],  # equal ranks: no order to find
    ]
    found = metrics(prompts)
    assert found["judge_accuracy"] == (pytest.approx((3 + 0 + 1) / (3 + 1 + 2)), 3)
    assert found["judge_five_best"] == (1 / 2, 2)
    assert found["judge_exact_order"] == (pytest.approx(1 / 3), 3)
    assert found["judge_spearman"] == (pytest.approx((1 - 1 + 0) / 3), 3)
    assert found["judge_kendall"] == (pytest.approx((1 - 1 + 0) / 3), 3)
    # First votes 5 = 5, 3 = 3, 1 ≠ 2; 2 ≠ 3, 5 ≠ 4; no references; 1 = 1, 2 ≠ 1.
    assert found["judge_exact"] == (pytest.approx(3 / 7), 3)
    assert found["judge_score"] == (pytest.approx((5 + 3.5 + 1 + 3 + 5 + 4 + 4 + 4 + 1 + 2) / 10), 4)
    # The votes give to the six true orders 1, 1, 1, 0, 1/2, 1/2: 4 of 12 predictions miss by 1/4.
    assert found["judge_calibration"] == (pytest.approx(8 / 12 * 1 / 4), 3)


def test_an_answer_that_the_judge_could_not_score_takes_the_lowest_place() -> None:
    assert metrics([[(0, [0.0], None), (1, [None], None)]])["judge_accuracy"][0] == 1
    lost = metrics([[(0, [None], None), (1, [0.0], None)]])
    found = [lost[metric][0] for metric in ("judge_accuracy", "judge_spearman", "judge_kendall", "judge_calibration")]
    assert found == pytest.approx([0, -1, -1, 1])


def test_a_judge_that_never_parses_is_right_about_nothing() -> None:
    found = metrics([[(0, [None, None], 5.0), (1, [None, None], 3.0)]])
    assert found == {
        "judge_accuracy": (0, 1), "judge_exact_order": (0, 1), "judge_spearman": (0, 1), "judge_kendall": (0, 1),
        "judge_exact": (0, 1), "judge_parse_rate": (0, 1),
    }  # fmt: skip


def test_the_parse_rate_is_a_share_of_all_votes() -> None:
    prompts: list[list[Answer]] = [[(0, [5, None], None), (1, [None, None], None)], [(0, [1, 2], None)]]
    assert metrics(prompts)["judge_parse_rate"] == (pytest.approx((1 + 2) / (4 + 2)), 2)


def test_votes_on_an_answer_without_a_score_count_no_further() -> None:
    """Such as one that was judged on a shortened text, if those are excluded."""
    prompts: list[list[Answer]] = [[(0, [5, 5], 5.0), (1, [3, 3], 3.0)]]
    judged, votes = tables(prompts)
    judged = judged.with_columns(score=pl.when(pl.col("rank") == 1).then("score"))
    found = {row["metric"]: row["value"] for row in judge_metrics(judged, votes, ScoreSection())}
    names = ("judge_accuracy", "judge_calibration", "judge_exact", "judge_parse_rate")
    assert [found[name] for name in names] == [0, 1, 0.5, 1], "by its votes, the first answer would be right"
    assert set(vote_errors(votes, judged, ScoreSection())["candidate_id"]) == {"p0-1"}


def test_without_references_ranks_or_tests_there_are_fewer_numbers() -> None:
    assert metrics([]) == {}
    assert set(metrics([[(0, [3.0], None), (0, [4.0], None)]])) == {"judge_score", "judge_parse_rate"}
    ranked = metrics([[(0, [3.0], None), (1, [2.0], None)]])
    assert "judge_exact" not in ranked
    assert "judge_five_best" not in ranked, "no answer has the perfect score"
    assert metrics([[(0, [3.0], None), (1, [2.0], None)]], high=3)["judge_five_best"] == (1, 1)


@given(
    st.lists(
        st.lists(
            st.tuples(
                st.integers(0, 2),
                st.lists(st.sampled_from([None, 0.0, 3.0, 5.0]), min_size=1, max_size=3),
                st.sampled_from([None, 1.0, 3.0]),
            ),
            min_size=2,
            max_size=4,
        ),
        min_size=1,
        max_size=4,
    ),
    st.randoms(),
)
def test_metrics_stay_in_range_and_do_not_depend_on_the_order_of_rows(prompts: Any, random: Any) -> None:
    judged, votes = tables(prompts)
    rows = judge_metrics(judged, votes, ScoreSection())
    for row in rows:
        low = -1 if row["metric"] in ("judge_spearman", "judge_kendall") else 0
        assert low <= row["value"] <= (5 if row["metric"] == "judge_score" else 1)
    orders = [random.sample(range(data.height), data.height) for data in (judged, votes)]
    again = judge_metrics(judged[orders[0]], votes[orders[1]], ScoreSection())
    assert [row["metric"] for row in again] == [row["metric"] for row in rows]
    assert [row["value"] for row in again] == pytest.approx([row["value"] for row in rows])


def errors(prompts: Sequence[Sequence[Answer]]) -> dict[tuple[str, int], float]:
    judged, votes = tables(prompts)
    rows = vote_errors(votes, judged, ScoreSection()).select("candidate_id", "vote", "error").iter_rows()
    return {(candidate, vote): error for candidate, vote, error in rows}


def test_the_error_of_a_vote_is_its_distance_where_the_quality_is_known() -> None:
    assert errors([[(0, [5, 2, None], 4.0), (1, [0, 3], 1.5)]]) == {
        ("p0-0", 0): 1, ("p0-0", 1): 2, ("p0-1", 0): 1.5, ("p0-1", 1): 1.5,
    }  # fmt: skip


def test_otherwise_it_is_the_number_of_answers_on_the_wrong_side() -> None:
    # Means: 3, 3, 1, none. Answers 1 and 0 are of the same rank, the last one could not be scored.
    prompt: list[Answer] = [(0, [5, 1], None), (0, [3, 3], None), (1, [0, 2], None), (2, [None], None)]
    assert errors([prompt]) == {
        ("p0-0", 0): 0,  # above 1 and above the one without a score
        ("p0-0", 1): 0.5,  # ties with the mean 1
        ("p0-1", 0): 0, ("p0-1", 1): 0,
        ("p0-2", 0): 0, ("p0-2", 1): 0,  # below both means of 3, above the one without a score
    }  # fmt: skip
    assert errors([[(0, [2], None), (0, [4], None)]]) == {}, "equal ranks: nothing is known"


def hidden_texts(prompts: Sequence[Sequence[Answer]], text: str = "because {}") -> pl.DataFrame:
    _, votes = tables(prompts)
    names = [text.format(key) for key in votes.select("candidate_id", "vote").rows()]
    return votes.select("candidate_id", "vote").with_columns(pl.Series("text", names))


VOTED = st.lists(st.lists(st.sampled_from([0.0, 1.0, 3.0]), min_size=1, max_size=4), min_size=2, max_size=6)


@given(VOTED, st.integers(0, 12), st.integers(0, 3))
def test_comparisons_are_of_known_outcome_in_both_orders_and_spread_over_the_answers(
    answers: list[list[float]], count: int, seed: int
) -> None:
    prompts = [[(rank, list(votes), 3.0) for rank, votes in enumerate(answers)]]
    judged, votes = tables(prompts)
    known = vote_errors(votes, judged, ScoreSection())
    error = {(candidate, vote): value for _, candidate, vote, value in known.iter_rows()}
    pairs = known_comparisons(known, hidden_texts(prompts), count, Seeds(seed, 0))
    possible = {
        (candidate, frozenset((a, b))) for (candidate, a), (other, b) in permutations(error, 2)
        if candidate == other and error[candidate, a] != error[other, b]
    }  # fmt: skip
    asked = {}
    for _, candidate, a, b, better, text_a, text_b in pairs.iter_rows():
        assert (better == "a") == (error[candidate, a] < error[candidate, b])
        assert (text_a, text_b) == (f"because {(candidate, a)}", f"because {(candidate, b)}")
        asked.setdefault((candidate, frozenset((a, b))), []).append(better)
    assert set(asked) <= possible
    assert all(sorted(orders) == ["a", "b"] for orders in asked.values())
    assert len(asked) == min(count, len(possible))
    answered = {candidate for candidate, _ in asked}
    assert len(answered) == min(count, len({candidate for candidate, _ in possible})), "each answer before a second one"
    assert known_comparisons(known.reverse(), hidden_texts(prompts).reverse(), count, Seeds(seed, 0)).equals(pairs)


def test_judgements_that_differ_in_their_score_alone_are_not_compared() -> None:
    prompts: list[list[Answer]] = [[(0, [5, 1], 5.0), (1, [0], 0.0)]]
    judged, votes = tables(prompts)
    known = vote_errors(votes, judged, ScoreSection())
    assert known_comparisons(known, hidden_texts(prompts), 9, Seeds(0, 0)).height == 2
    assert known_comparisons(known, hidden_texts(prompts, "the same"), 9, Seeds(0, 0)).is_empty()


def test_meta_metrics_by_hand() -> None:
    verdicts = [
        ("p", "c", (0, 1), "a", "a", "b", "b"),  # right in both orders
        ("p", "c", (0, 2), "a", "a", "b", "a"),  # first slot both times
        ("p", "d", (0, 1), "b", "a", "a", "b"),  # wrong in both orders
        ("q", "e", (0, 1), "a", None, "b", "b"),  # one verdict that cannot be read, one right
    ]
    rows = []
    for prompt, candidate, (low, high), better, winner, other_better, other_winner in verdicts:
        key = {"prompt_id": prompt, "candidate_id": candidate, "text": "..."}
        rows.append({**key, "vote_a": low, "vote_b": high, "better": better, "winner": winner})
        rows.append({**key, "vote_a": high, "vote_b": low, "better": other_better, "winner": other_winner})
    found = {row["metric"]: (row["value"], row["n"]) for row in meta_metrics(frame(META_EVALUATIONS, rows))}
    assert found == {
        "meta_accuracy": (pytest.approx((2 + 1 + 0 + 1) / 8), 2),
        "meta_first_slot": (pytest.approx((1 + 2 + 1 + 0) / 7), 2),
        "meta_flip": (pytest.approx(1 / 3), 1),
        # Probabilities given to the truth: 1, 1/2, 0. At 1 and at 0, each half of the predictions is wrong.
        "meta_calibration": (pytest.approx((2 * 0.5 + 2 * 0.5) / 6), 1),
    }
    assert meta_metrics(frame(META_EVALUATIONS, [])) == []
