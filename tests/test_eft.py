"""EFT: which judgements agree with people, how scores are balanced, and the stage from files to files."""

from collections import Counter
from itertools import combinations, product
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import eft as stage
from stages.algorithms.agreement import KEYS, Rule, agreement, balance, drop_duplicates, limit
from stages.artifacts import Table, frame, read, write
from stages.config import EftSection
from stages.errors import StageError
from stages.ids import candidate_id, judgement_id
from stages.tables import EFT_LEDGER, JUDGE_PROMPTS, JUDGEMENTS, RANKED, SFT_EXAMPLES, VOTES

Scores = dict[int, list[float | None]]
"""Scores of each answer, by vote; a null did not parse."""
Judged = tuple[list[int], Scores]
"""Ranks of a prompt's answers, and their scores."""


def frames(prompts: dict[str, Judged]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The answers and the votes that `agreement` takes."""
    answers = [
        {"prompt_id": key, "candidate_id": f"{key}-{number}", "rank": rank}
        for key, (ranks, _) in prompts.items()
        for number, rank in enumerate(ranks)
    ]
    votes = [
        {"prompt_id": key, "candidate_id": f"{key}-{number}", "vote": vote, "score": score,
         "parse_status": "no_match" if score is None else "ok"}
        for key, (_, scores) in prompts.items()
        for number, given_scores in scores.items()
        for vote, score in enumerate(given_scores)
    ]  # fmt: skip
    schema = {"prompt_id": pl.String, "candidate_id": pl.String}
    votes_schema = {**schema, "vote": pl.Int64, "score": pl.Float64, "parse_status": pl.String}
    return pl.DataFrame(answers, {**schema, "rank": pl.Int64}), pl.DataFrame(votes, votes_schema)


def reasons(
    prompts: dict[str, Judged], rule: Rule, tolerance: float = 0.0, ties: bool = False
) -> dict[tuple[str, int], str]:
    """Reason (`kept` if none) of each judgement by candidate and vote."""
    found = agreement(*frames(prompts), rule, tolerance, ties)
    return {(key, vote): reason or "kept" for key, vote, reason in found["candidate_id", "vote", "reason"].iter_rows()}


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


SCORE = st.none() | st.sampled_from([0.0, 1.0, 2.0, 2.5, 3.0, 4.0, 5.0])
PROMPT = st.integers(1, 4).flatmap(
    lambda answers: st.tuples(
        st.lists(st.integers(0, 2), min_size=answers, max_size=answers),
        st.lists(st.lists(SCORE, max_size=3), min_size=answers, max_size=answers).map(
            lambda scores: dict(enumerate(scores))
        ),
    )
)
PROMPTS_JUDGED = st.lists(PROMPT, min_size=1, max_size=3).map(
    lambda prompts: {f"p{number}": prompt for number, prompt in enumerate(prompts)}
)
RULE: Any = st.sampled_from(["order", "pairs"])


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
    assert agreement(*shuffled, rule, 0.0, ties).sort(KEYS).equals(first.sort(KEYS))


def test_only_votes_that_rank_all_answers_as_people_did_are_learned_from() -> None:
    """The rule of Self-Rewarding; the prior system had no such data (D33)."""
    judged: Judged = ([0, 1, 1], {0: [5, 3, 4, 4], 1: [2, 4, 4, 2], 2: [3, 1, 1, None]})
    by_vote = {
        0: ["kept", "kept", "kept"],  # 5 > 2 and 5 > 3; the order of the tied two is free
        1: ["disagrees"] * 3,
        2: ["tie"] * 3,
        3: ["incomplete", "incomplete", "unparsed"],
    }
    wanted = {(f"p-{number}", vote): by_vote[vote][number] for vote in by_vote for number in range(3)}
    assert reasons({"p": judged}, "order") == wanted


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
    assert shuffled.sort(KEYS).equals(after.sort(KEYS))
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


class Files:
    """The inputs of the stage, and its run."""

    def __init__(self, folder: Path, prompts: dict[str, Judged], texts: dict[str, str] | None = None) -> None:
        self.folder, self.rows = folder, {table.name: [] for table in (RANKED, VOTES, JUDGEMENTS, JUDGE_PROMPTS)}
        for key, (ranks, scores) in prompts.items():
            for number, rank in enumerate(ranks):
                keys = {"prompt_id": key, "candidate_id": candidate_id(key, 0, number)}
                answer = {"text": f"answer {number}", "finish_reason": "stop", "rank": rank}
                question = [{"role": "user", "content": f"Judge {keys['candidate_id']}"}]
                self._add(RANKED, keys, answer)
                self._add(JUDGE_PROMPTS, keys, {"messages": question, "token_ids": [1], "shortened": False})
                for vote, score in enumerate(scores[number]):
                    name = judgement_id(keys["candidate_id"], vote)
                    text = (texts or {}).get(name, f"{name} says {score}")
                    status = "no_match" if score is None else "ok"
                    sampled = {"finish_reason": "stop", "tokens": 2}
                    self._add(VOTES, keys, {"vote": vote, "score": score, "parse_status": status, **sampled})
                    self._add(JUDGEMENTS, keys, {"vote": vote, "seed": 0, "text": text, "token_ids": [], **sampled})

    def _add(self, table: Table, keys: dict[str, str], values: dict[str, Any]) -> None:
        self.rows[table.name].append({**keys, **values})

    def run(self, shards: int = 1, **changed: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
        files = {table.name: self._write(table, shards) for table in (RANKED, JUDGEMENTS, JUDGE_PROMPTS)}
        outputs = {"output": self.folder / "examples.parquet", "ledger": self.folder / "ledger.parquet"}
        inputs = {"answers": files["ranked"], "votes": self._write(VOTES, 1)[0]}
        inputs |= {"judgements": files["judgements"], "judge_prompts": files["judge_prompts"]}
        stage.main(stage.Args(**{"max_class_share": 1.0, **inputs, **outputs, **changed}))
        return read(outputs["output"], SFT_EXAMPLES), read(outputs["ledger"], EFT_LEDGER)

    def _write(self, table: Table, shards: int) -> list[Path]:
        paths = [self.folder / f"{table.name}-{shards}-{shard}.parquet" for shard in range(shards)]
        for shard, path in enumerate(paths):
            write(frame(table, self.rows[table.name][shard::shards]), path, table, {})
        return paths


AGREEING: dict[str, Judged] = {
    "a": ([0, 1], {0: [5, 3], 1: [2, 3]}),
    "b": ([1, 0], {0: [1, 4], 1: [4, 2]}),
    "c": ([0, 0, 1], {0: [4, None], 1: [3, 3], 2: [2, 1]}),
}


def test_an_example_is_the_judges_input_and_the_judgement_as_it_came(tmp_path: Path) -> None:
    examples, ledger = Files(tmp_path, AGREEING).run()
    assert set(examples["example_id"]) == {
        f"eft-{judgement_id(candidate_id(key, 0, number), 0)}" for key in AGREEING for number in AGREEING[key][1]
    }
    assert examples.row(0, named=True) == {
        "example_id": "eft-a-0-0-v0",
        "messages": [
            {"role": "user", "content": "Judge a-0-0"},
            {"role": "assistant", "content": "a-0-0-v0 says 5"},
        ],
        "prompt_loss_weight": 0.0,
    }
    assert ledger["candidate_id", "vote", "reason"].rows() == [
        ("a-0-0", 1, "tie"), ("a-0-1", 1, "tie"),
        ("b-0-0", 1, "disagrees"), ("b-0-1", 1, "disagrees"),
        ("c-0-0", 1, "unparsed"), ("c-0-1", 1, "incomplete"), ("c-0-2", 1, "incomplete"),
    ]  # fmt: skip


@settings(max_examples=12)
@given(PROMPTS_JUDGED, RULE, st.sampled_from([0.3, 0.5, 1.0]), st.none() | st.integers(1, 5), st.integers(1, 3))
def test_every_judgement_is_an_example_or_has_one_reason(
    tmp_path_factory: pytest.TempPathFactory, prompts: dict[str, Judged], rule: Rule, share: float,
    budget: int | None, shards: int,
) -> None:  # fmt: skip
    files = Files(tmp_path_factory.mktemp("eft"), prompts)
    given_settings = {"agreement": rule, "max_class_share": share, "max_judgements": budget}
    try:
        examples, ledger = files.run(**given_settings)
    except StageError as error:
        assert "kept" not in reasons(prompts, rule).values()
        assert "agrees with people's ranks" in str(error)  # noqa: PT017
        return
    dropped = [judgement_id(*row) for row in ledger["candidate_id", "vote"].rows()]
    everything = [judgement_id(row["candidate_id"], row["vote"]) for row in files.rows[VOTES.name]]
    assert sorted([*(key.removeprefix("eft-") for key in examples["example_id"]), *dropped]) == sorted(everything)
    again = files.run(shards=shards, **given_settings)
    assert again[0].equals(examples)
    assert again[1].equals(ledger)


def test_judgements_with_the_same_text_of_the_same_answer_are_one_example(tmp_path: Path) -> None:
    prompts: dict[str, Judged] = {"a": ([0, 1], {0: [5, 5], 1: [2, 2]})}
    same = {judgement_id(candidate_id("a", 0, 0), vote): "Score: 5" for vote in range(2)}
    examples, ledger = Files(tmp_path, prompts, same).run()
    assert examples.height == 3
    assert ledger["candidate_id", "vote", "reason"].rows() == [("a-0-0", 1, "duplicate")]


def test_the_seed_chooses_what_balancing_keeps_and_nothing_else_does(tmp_path: Path) -> None:
    prompts: dict[str, Judged] = {f"p{number}": ([0, 1], {0: [4.0], 1: [number % 4]}) for number in range(40)}
    files = Files(tmp_path, prompts)
    kept = {seed: files.run(seed=seed, max_class_share=0.3)[0] for seed in (0, 1)}
    # 40 fours beside four classes of 10: the most is 0.3 of 40 / 0.7, that is 17 of 57.
    assert [table.height for table in kept.values()] == [57, 57]
    assert not kept[0].equals(kept[1])
    assert kept[0].equals(files.run(seed=0, max_class_share=0.3, shards=3)[0])


def test_nothing_to_learn_from_stops_the_run_with_the_counts(tmp_path: Path) -> None:
    prompts: dict[str, Judged] = {"a": ([0, 1], {0: [1, 3, None], 1: [2, 3, 4]})}
    with pytest.raises(StageError, match=r"none of 6 judgements .*disagrees 2, tie 2, incomplete 1, unparsed 1.*votes"):
        Files(tmp_path, prompts).run()


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (RANKED, r"--answers .*no ranked answer for 2 votes, first candidate a-0-0 vote 0"),
        (JUDGEMENTS, r"--judgements .*no judgement for 1 votes, first candidate a-0-0 vote 0"),
        (JUDGE_PROMPTS, r"--judge-prompts .*no judge prompt for 1 votes, first candidate a-0-0 vote 0"),
    ],
)
def test_inputs_of_different_runs_are_refused(tmp_path: Path, table: Table, problem: str) -> None:
    files = Files(tmp_path, AGREEING)
    del files.rows[table.name][0]
    with pytest.raises(StageError, match=problem):
        files.run()


def test_the_stages_settings_are_those_of_the_configuration() -> None:
    for name in ("agreement", "tie_tolerance", "allow_ties", "max_class_share", "max_judgements"):
        own, configured = stage.Args.model_fields[name], EftSection.model_fields[name]
        assert repr(own) == repr(configured)
