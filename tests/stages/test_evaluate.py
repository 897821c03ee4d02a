"""Evaluation of judge and meta-judge: numbers by hand, pairs that are known, and the stage from file to file."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import evaluate
from stages.algorithms.judge_metrics import judge_metrics, known_comparisons, meta_metrics, vote_errors
from stages.config import EngineSettings, Sampling, ScoreSection
from stages.contracts.artifacts import read, write
from stages.contracts.errors import StageError
from stages.contracts.ids import prompt_id
from stages.contracts.schema import frame
from stages.engines.protocol import Completion, Request
from stages.tables import (
    EVALUATIONS,
    JUDGE_EVALUATIONS,
    JUDGE_TESTS,
    JUDGEMENTS,
    META_EVALUATIONS,
    PROMPTS,
    SUMMARY,
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
    pairs = known_comparisons(known, hidden_texts(prompts), count, seed)
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
    assert known_comparisons(known.reverse(), hidden_texts(prompts).reverse(), count, seed).equals(pairs)


def test_judgements_that_differ_in_their_score_alone_are_not_compared() -> None:
    prompts: list[list[Answer]] = [[(0, [5, 1], 5.0), (1, [0], 0.0)]]
    judged, votes = tables(prompts)
    known = vote_errors(votes, judged, ScoreSection())
    assert known_comparisons(known, hidden_texts(prompts), 9, 0).height == 2
    assert known_comparisons(known, hidden_texts(prompts, "the same"), 9, 0).is_empty()


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


class Judge:
    """An engine that answers `Fine.`, gives the scores that it finds after `VOTES` in the response, by the vote's
    number, and prefers the judgement that says `careful`."""

    seeds_honoured = True

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.asked = tokenizer, 0

    def generate(self, requests: Sequence[Request], sampling: Sampling) -> Iterator[Completion]:
        for request in requests:
            self.asked += 1
            text = self.reply(self.tokenizer.decode(list(request.prompt_token_ids)), request.request_id)
            yield Completion(request.request_id, text, [*self.tokenizer.encode(text).ids, 4], "stop", -1.0)

    def reply(self, prompt: str, request_id: str) -> str:
        if "JUDGE" in prompt:
            score = prompt.split("VOTES ")[1].split()[int(request_id.rsplit("-v", 1)[1])]
            return f"{'careful' if score in ('5', '0') else 'hasty'} words {request_id[-1]}. Score: {score}"
        if "COMPARE" in prompt:
            assert "Score: ?" in prompt, "the meta-judge must not see the scores"
            return "Winner: Judgement " + ("A" if "careful" in prompt.split("SECOND")[0] else "B")
        return "Fine" + "." * int(request_id.rsplit("-", 1)[1]) + "."


@pytest.fixture
def world(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], Judge]:
    """Arguments of the stage, without a test set, and the engine that it will get."""
    from tokenizers import Tokenizer

    judge = Judge(Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json")))

    @contextmanager
    def opened(*_: Any) -> Iterator[Judge]:
        yield judge

    monkeypatch.setattr(evaluate, "open_engine", opened)
    (tmp_path / "judge.jinja").write_text("JUDGE {{ conversation }} {{ response }}")
    (tmp_path / "meta.jinja").write_text(
        "COMPARE {{ conversation }} {{ response }} {{ judgement_a }} SECOND {{ judgement_b }}"
    )
    (tmp_path / "oracle.py").write_text("def quality(messages, text):\n    return float(len(text))\n")
    messages = [{"role": "user", "content": "Hello"}]
    row = {"prompt_id": prompt_id(messages), "messages": messages, "split": "validation", "source": "s", "row": 1}
    write(frame(PROMPTS, [row]), tmp_path / "pool.parquet", PROMPTS, {})
    return {
        "model": tiny_model_dir, "number": -1, "pool": tmp_path / "pool.parquet", "oracle": tmp_path / "oracle.py",
        "judge": {"template": tmp_path / "judge.jinja", "sampling": {"max_tokens": 40}},
        "meta_judge": {"template": tmp_path / "meta.jinja", "sampling": {"max_tokens": 40}},
        "engine": EngineSettings(max_sequence_length=400), "sampling": {"max_tokens": 8}, "judge_votes": 2,
        **{name: tmp_path / f"{name}.parquet"
           for name in ("evaluations", "judgements", "judge_evaluations", "meta_evaluations", "summary")},
    }, judge  # fmt: skip


def write_tests(path: Path) -> Path:
    """Two prompts; the responses carry the two votes that they will get. Careful votes are 5 and 0."""
    given_votes = {"p": [("5 4", 0), ("0 2", 1)], "q": [("5 5", 0), ("5 5", 1)]}
    rows = [
        {"prompt_id": prompt, "candidate_id": f"{prompt}-{sample}", "messages": [{"role": "user", "content": "Hello"}],
         "text": f"VOTES {votes} .", "rank": rank, "quality": 5.0 * (1 - rank)}
        for prompt, answers in given_votes.items() for sample, (votes, rank) in enumerate(answers)
    ]  # fmt: skip
    write(frame(JUDGE_TESTS, rows), path, JUDGE_TESTS, {})
    return path


def test_the_stage_answers_judges_and_compares(world: Any, tmp_path: Path) -> None:
    values, judge = world
    args = evaluate.Args(**values, judge_tests=write_tests(tmp_path / "tests.parquet"), meta_comparisons=5)
    evaluate.main(args)
    assert set(read(args.evaluations, EVALUATIONS)["decoding"]) == {"sample", "greedy"}
    judged = read(args.judge_evaluations, JUDGE_EVALUATIONS).sort("candidate_id")
    assert judged["score"].to_list() == [4.5, 1, 5, 5]
    texts = read(args.judgements, JUDGEMENTS).sort("candidate_id", "vote")["text"]
    assert texts[:2].to_list() == ["careful words 0. Score: 5", "hasty words 1. Score: 4"]
    compared = read(args.meta_evaluations, META_EVALUATIONS)
    # Only the answers of p have votes of different error; in both of them the careful one is right.
    assert compared.select("candidate_id", "vote_a", "vote_b", "better", "winner").rows() == [
        (name, *order) for name in ("p-0", "p-1") for order in ((0, 1, "a", "a"), (1, 0, "b", "b"))
    ]
    summary = read(args.summary, SUMMARY)
    assert set(summary["model"]) == {-1}
    found = dict(summary.select("metric", "value").iter_rows())
    assert found["quality"] == found["quality_greedy"] == len("Fine.")
    assert found["judge_accuracy"] == (1 + 0.5) / 2
    assert found["judge_exact_order"] == 0.5
    assert (found["meta_accuracy"], found["meta_first_slot"], found["meta_flip"]) == (1, 0.5, 0)
    assert judge.asked == 2 + 4 * 2 + 2 * 2
    assert not list(tmp_path.glob(".*journal*"))


def test_several_samples_of_a_prompt_count_as_one_prompt(world: Any) -> None:
    values, judge = world
    args = evaluate.Args(**values, samples=3)
    evaluate.main(args)
    answers = read(args.evaluations, EVALUATIONS).sort("decoding", "sample")
    assert answers.select("decoding", "sample").rows() == [("greedy", 0), *(("sample", number) for number in range(3))]
    assert answers["seed"].n_unique() == 3, "the greedy answer shares the seed of the first sample"
    found = {row["metric"]: (row["value"], row["n"]) for row in read(args.summary, SUMMARY).iter_rows(named=True)}
    assert (found["quality"], found["quality_greedy"]) == ((6, 1), (5, 1))
    assert judge.asked == 4


def judged_texts(world: Any, tmp_path: Path, sizes: Sequence[int], messages: int, **score: Any) -> pl.DataFrame:
    """Judged answers of one prompt, the best one first, with `sizes` words; the question has `messages` words."""
    values, _ = world
    rows = [
        {"prompt_id": "p", "candidate_id": f"p-{rank}", "text": "VOTES 3 4 . " + "word " * size, "rank": rank,
         "messages": [{"role": "user", "content": "word " * (messages if rank == 0 else 1)}], "quality": None}
        for rank, size in enumerate(sizes)
    ]  # fmt: skip
    write(frame(JUDGE_TESTS, rows), tmp_path / "tests.parquet", JUDGE_TESTS, {})
    args = evaluate.Args(**values, judge_tests=tmp_path / "tests.parquet", score=score)
    evaluate.main(args)
    return read(args.judge_evaluations, JUDGE_EVALUATIONS).sort("candidate_id")


def test_an_answer_that_the_judge_never_saw_stays_in_the_lowest_place(
    world: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = judged_texts(world, tmp_path, [1, 1], 500)
    assert judged.select("score", "first_score", "valid_votes").rows() == [(None, None, 0), (3.5, 3, 2)]
    found = dict(read(world[0]["summary"], SUMMARY).select("metric", "value").iter_rows())
    assert found["judge_accuracy"] == 0
    assert found["judge_parse_rate"] == 1, "of the votes that were asked for"
    assert "of 2 test answers 1 too long to be judged, 0 shortened" in capsys.readouterr().err


@pytest.mark.parametrize("excluded", [True, False])
def test_an_answer_that_was_judged_shortened_is_scored_as_in_the_loop(
    world: Any, tmp_path: Path, excluded: bool
) -> None:
    judged = judged_texts(world, tmp_path, [500, 1], 1, exclude_shortened=excluded)
    assert judged.select("score", "valid_votes").rows() == [(None if excluded else 3.5, 2), (3.5, 2)]


def test_training_prompts_are_never_answered_instead_of_held_out_ones(world: Any) -> None:
    values, judge = world
    args = evaluate.Args(**values)
    pool = read(args.pool, PROMPTS).with_columns(split=pl.lit("train"))
    write(pool, args.pool, PROMPTS, {})
    with pytest.raises(StageError, match=r"pool\.parquet: none of the 1 prompts is held out; set evaluate\.prompts"):
        evaluate.main(args)
    assert judge.asked == 0
    evaluate.main(args.model_copy(update={"split": "all"}))
    assert read(args.evaluations, EVALUATIONS).height == 2


def test_a_limit_does_not_take_the_first_prompts_of_the_data(world: Any) -> None:
    """D29: `limit` did. Here the hash of a prompt decides."""
    values, _ = world
    args = evaluate.Args(**values, max_prompts=3)
    asked = [[{"role": "user", "content": f"Question {number}"}] for number in range(9)]
    rows = [
        {"prompt_id": prompt_id(messages), "messages": messages, "split": "validation", "source": "s", "row": row}
        for row, messages in enumerate(asked)
    ]
    write(frame(PROMPTS, rows), args.pool, PROMPTS, {})
    evaluate.main(args)
    answered = set(read(args.evaluations, EVALUATIONS)["prompt_id"])
    assert answered == set(sorted(row["prompt_id"] for row in rows)[:3])
    assert answered != {row["prompt_id"] for row in rows[:3]}


def test_without_a_test_set_all_tables_exist_and_are_empty(world: Any) -> None:
    values, judge = world
    args = evaluate.Args(**values, meta_comparisons=5)
    evaluate.main(args)
    for path, table in (
        (args.judgements, JUDGEMENTS),
        (args.judge_evaluations, JUDGE_EVALUATIONS),
        (args.meta_evaluations, META_EVALUATIONS),
    ):
        assert read(path, table).is_empty()
    assert set(read(args.summary, SUMMARY)["metric"]) == {"quality", "quality_greedy", "tokens"}
    assert judge.asked == 2


def test_the_meta_judge_is_left_alone_unless_asked_for(world: Any, tmp_path: Path) -> None:
    values, judge = world
    args = evaluate.Args(**values, judge_tests=write_tests(tmp_path / "tests.parquet"))
    evaluate.main(args)
    assert read(args.meta_evaluations, META_EVALUATIONS).is_empty()
    assert judge.asked == 2 + 4 * 2


def test_a_file_without_an_oracle_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"missing\.py: no such Python file"):
        evaluate.load_oracle(tmp_path / "missing.py")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(StageError, match=r"empty\.py: defines no function quality"):
        evaluate.load_oracle(tmp_path / "empty.py")
