"""Agreement with people: which judgements are kept, how their scores are balanced, and what the budget leaves.

The rules by hand are in `test_paper_rules_self_rewarding.py`.
"""

from collections import Counter
from itertools import combinations, product

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from stages.algorithms.agreement import Rule, agreement, balance, drop_duplicates, limit
from stages.tables import VOTES
from tests.support.judged_answers import PROMPTS_JUDGED, RULE, Judged, Scores, frames, reasons


def expected(ranks: list[int], scores: Scores, rule: Rule, tolerance: float, ties: bool) -> dict[tuple[int, int], str]:
    """The rules as they are stated, one judgement at a time."""

    def compare(own: float, other: float | None, rank: int, other_rank: int) -> str:
        if other is None:
            return "incomplete"
        gap = own - other if rank < other_rank else other - own
        if rank == other_rank or gap > tolerance or (ties and gap >= -tolerance):
            return "kept"
        return "tie" if gap >= -tolerance else "disagrees"

    def sibling(number: int, vote: int) -> float | None:
        return scores[number][vote] if vote < len(scores[number]) else None

    def mean(number: int) -> float | None:
        valid = [score for score in scores[number] if score is not None]
        return sum(valid) / len(valid) if valid else None

    found = {}
    for number, own_scores in scores.items():
        for vote, own in enumerate(own_scores):
            if rule == "order":
                pairs = list(combinations(scores, 2))
                sides = [(sibling(a, vote), sibling(b, vote), ranks[a], ranks[b]) for a, b in pairs]
                results = ["incomplete" if a is None else compare(a, b, x, y) for a, b, x, y in sides]
            else:
                others = [other for other in scores if ranks[other] != ranks[number]]
                results = [compare(own, mean(o), ranks[number], ranks[o]) for o in others if own is not None]
            worst = [name for name in ("incomplete", "disagrees", "tie") if name in results]
            found[number, vote] = "unparsed" if own is None else (worst or ["kept"])[0]
    return found


@given(PROMPTS_JUDGED, RULE, st.sampled_from([0.0, 0.5, 1.0]), st.booleans())
def test_agreement_is_what_comparing_all_pairs_one_by_one_says(
    prompts: dict[str, Judged], rule: Rule, tolerance: float, ties: bool
) -> None:
    wanted = {
        (f"{key}-{number}", vote): reason
        for key, (ranks, scores) in prompts.items()
        for (number, vote), reason in expected(ranks, scores, rule, tolerance, ties).items()
    }
    assert reasons(prompts, rule, tolerance, ties) == wanted


@given(PROMPTS_JUDGED, RULE, st.booleans(), st.integers(0, 99))
def test_the_order_of_rows_changes_neither_reasons_nor_details(
    prompts: dict[str, Judged], rule: Rule, ties: bool, seed: int
) -> None:
    answers, votes = frames(prompts)
    first = agreement(answers, votes, rule, 0.0, ties)
    shuffled = [table.sample(fraction=1, shuffle=True, seed=seed) for table in (answers, votes)]
    assert agreement(*shuffled, rule, 0.0, ties).sort(VOTES.key).equals(first.sort(VOTES.key))


def test_a_vote_that_an_answer_lacks_is_incomplete() -> None:
    assert reasons({"p": ([0, 1], {0: [5, 5], 1: [1]})}, "order") == {
        ("p-0", 0): "kept",
        ("p-1", 0): "kept",
        ("p-0", 1): "incomplete",
    }


def test_in_pairs_each_judgement_answers_for_itself_against_the_others_means() -> None:
    # Means 4 and 3: the first answer's 3 only ties with 3, the second's 5 is above 4.
    judged: Judged = ([0, 1], {0: [5, 3, None], 1: [1, 5, 3]})
    assert reasons({"p": judged}, "pairs") == {
        ("p-0", 0): "kept", ("p-0", 1): "tie", ("p-0", 2): "unparsed",
        ("p-1", 0): "kept", ("p-1", 1): "disagrees", ("p-1", 2): "kept",
    }  # fmt: skip


def test_the_detail_names_the_worst_pair() -> None:
    prompts: dict[str, Judged] = {"p": ([0, 1, 2], {0: [3], 1: [4], 2: [5]})}
    found = agreement(*frames(prompts), "order", 0.0, False)
    assert set(found["detail"]) == {"p-0: rank 0, score 3.0; p-2: rank 2, score 5.0"}


def judged(scores: list[float | None], examples: list[str] | None = None) -> pl.DataFrame:
    """Judgements, kept where they have a score, drawn in an order unlike that of their keys."""
    rows = [
        {"prompt_id": "p", "candidate_id": f"{number:03d}", "vote": 0, "score": score,
         "reason": "unparsed" if score is None else None, "detail": "no" if score is None else None,
         "draw": number * 7919 % 1009, "example": examples[number] if examples else str(number)}
        for number, score in enumerate(scores)
    ]  # fmt: skip
    text, whole = pl.String, pl.Int64
    schema = {"prompt_id": text, "candidate_id": text, "vote": whole, "score": pl.Float64, "reason": text}
    return pl.DataFrame(rows, {**schema, "detail": text, "draw": whole, "example": text})


def classes(judgements: pl.DataFrame) -> Counter[int]:
    kept = judgements.filter(pl.col("reason").is_null())
    return Counter(int(score) for score in kept["score"])


def most(sizes: list[int], share: float) -> int:
    """Brute force: the most judgements that can stay, every class with at least one, none above its share; with too
    few classes for the share, none above an even split."""
    share = max(share, 1 / len(sizes))
    choices = product(*(range(1, size + 1) for size in sizes))
    return max(sum(chosen) for chosen in choices if max(chosen) <= share * sum(chosen) + 1e-9)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.sampled_from([0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0]))
def test_balancing_keeps_as_many_as_the_share_allows(sizes: list[int], share: float) -> None:
    scores = [kind + part / 10 for kind, size in enumerate(sizes) for part in range(size)]
    before = judged([None, *scores])
    after = balance(before, share)
    assert after.height == before.height
    assert sum(classes(after).values()) == most(sizes, share)
    assert len(classes(after)) == len(sizes)
    assert max(classes(after).values()) <= max(share, 1 / len(sizes)) * sum(classes(after).values()) + 1e-9


@given(st.lists(st.sampled_from([None, 1.0, 1.5, 2.0, 3.0, 4.0]), max_size=40), st.integers(1, 12), st.integers(0, 9))
def test_what_balancing_and_the_budget_drop_depends_on_the_draw_alone(
    scores: list[float | None], budget: int, seed: int
) -> None:
    before = judged(scores)
    after = limit(balance(before, 0.4), budget)
    shuffled = limit(balance(before.sample(fraction=1, shuffle=True, seed=seed), 0.4), budget)
    assert shuffled.sort(VOTES.key).equals(after.sort(VOTES.key))
    known = after.filter(pl.col("score").is_not_null()).with_columns(pl.col("score").floor().alias("class"))
    for _, members in known.group_by("class"):
        stays = [reason is None for reason in members.sort("draw")["reason"]]
        assert stays == sorted(stays, reverse=True)


@given(st.lists(st.integers(0, 8), min_size=1, max_size=5), st.integers(1, 40))
def test_the_budget_is_spread_over_the_classes_as_evenly_as_they_last(sizes: list[int], budget: int) -> None:
    after = limit(judged([float(kind) for kind, size in enumerate(sizes) for _ in range(size)]), budget)
    kept = classes(after)
    assert sum(kept.values()) == min(budget, sum(sizes))
    for kind, other in product(range(len(sizes)), repeat=2):
        # A class is behind another by more than a turn only when all of it is in.
        assert kept[kind] >= kept[other] - 1 or kept[kind] == sizes[kind]


def test_without_a_budget_all_stay() -> None:
    before = judged([1.0, 2.0, None])
    assert limit(before, None).equals(before)


def test_equal_examples_count_once_and_only_among_the_kept() -> None:
    found = drop_duplicates(judged([None, 2.0, 2.0, 3.0], ["a", "a", "a", "b"]))
    assert found["reason"].to_list() == ["unparsed", None, "duplicate", None]
