"""`ranked`: ranked answers and OpenAssistant trees give disjoint data for EFT, judge tests and IFT, and a ledger."""

import gzip
import json
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import ranked as stage
from stages import ranking
from stages.artifacts import read
from stages.config import EftSection
from stages.conversations import FormatError
from stages.errors import StageError
from stages.ids import candidate_id, prompt_id, shard_of
from stages.ranked import Outputs, collect, use_of
from stages.rows import decode
from stages.tables import JUDGE_TESTS, PROMPTS, RANKED, RANKED_LEDGER, SFT_EXAMPLES

Record = dict[str, Any]
UNUSED = {"not_ready", "no_answers", "one_answer", "no_best", "all_tied", "duplicate"}


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def plain(prompt: str, *ranks: int, **fields: Any) -> Record:
    answers = [{"text": f"answer {number}", "rank": rank} for number, rank in enumerate(ranks)]
    return {"prompt": prompt, "answers": answers, **fields}


def message(text: str, role: str = "assistant", **fields: Any) -> Record:
    """A message as OpenAssistant exports it."""
    origin = {"message_id": text, "parent_id": None, "user_id": None, "synthetic": False, "labels": {}}
    state = {"lang": "en", "review_count": 3, "review_result": True, "deleted": False, "rank": None, "replies": []}
    return {**origin, **state, "text": text, "role": role, **fields}


def tree(text: str, *replies: Record, state: str | None = "ready_for_export", **fields: Any) -> Record:
    prompt = message(text, "prompter", replies=list(replies), **fields)
    return {"message_tree_id": text, "tree_state": state, "prompt": prompt, "origin": None}


def named(use: str) -> Callable[[int], str]:
    """The n-th prompt text whose hash gives it this use, where three tenths each are for test and IFT."""
    texts = (f"{use} {number}" for number in count())
    mine = (text for text in texts if use_of(prompt_id([turn("user", text)]), 0.3, 0.3) == use)
    return list(islice(mine, 8)).__getitem__


EFT, TEST, IFT = named("eft"), named("test"), named("ift")
BASE = [plain(EFT(0), 0, 1), plain(TEST(0), 0, 1), plain(IFT(0), 0, 1)]
"""One prompt for each use, so that the gate is passed."""


class Run:
    """The stage from its sources to its tables."""

    def __init__(self, folder: Path, *sources: Path, shards: int = 1, **settings: Any) -> None:
        folder = folder / "out"
        answers = [folder / f"answers-{shard}.parquet" for shard in range(shards)]
        outputs = {name: folder / f"{name}.parquet" for name in ("prompts", "tests", "ift", "ledger")}
        settings = {"test_fraction": 0.3, "ift_fraction": 0.3, **settings}
        stage.main(stage.Args(sources=list(sources), answers=answers, **outputs, **settings))
        self.prompts = read(outputs["prompts"], PROMPTS)
        self.shards = [read(path, RANKED) for path in answers]
        self.answers = read(answers, RANKED)
        self.tests = read(outputs["tests"], JUDGE_TESTS)
        self.ift = read(outputs["ift"], SFT_EXAMPLES)
        self.ledger = read(outputs["ledger"], RANKED_LEDGER)

    def reasons(self, row: int) -> dict[str, str]:
        return {reason: detail for at, reason, detail in self.ledger["row", "reason", "detail"].rows() if at == row}


def jsonl(folder: Path, *records: Any, name: str = "ranked.jsonl") -> Path:
    path = folder / name
    text = "".join(json.dumps(record) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def gathered(records: list[Record], test_fraction: float = 0.3, ift_fraction: float = 0.3) -> Outputs:
    rows = ((f"s{number % 2}", number, ranking.parse(record)) for number, record in enumerate(records, start=1))
    return collect(rows, test_fraction, ift_fraction)


def keys(outputs: Outputs) -> dict[str, set[str]]:
    return {
        "eft": {row["prompt_id"] for row in outputs.prompts if row["split"] == "train"},
        "test": {row["prompt_id"] for row in outputs.prompts if row["split"] == "validation"},
        "ift": {row["example_id"].removeprefix("ift-") for row in outputs.ift},
    }


def test_openassistant_seeds_eft_ift_and_the_judge_tests(tmp_path: Path) -> None:
    """The prior system had no seeding at all (D33), and its reader of these trees ignored rank, language and flags."""
    follow_up = [message("and then?", "prompter", replies=[message("deep", rank=0)])]
    trees = [
        tree(EFT(0), message("b", rank=1), message("a", rank=0, replies=follow_up), message("c", rank=2)),
        tree(TEST(0), message("worst", rank=4), message("best", rank=0)),
        tree(IFT(0), message("second", rank=1), message("first", rank=0)),
        tree(EFT(1), message("only", rank=0)),
        tree(EFT(2), message("x", rank=0), message("y", rank=1), state="aborted_low_grade"),
        tree(EFT(3), message("x", rank=0), message("y", rank=1), lang="de"),
        tree(EFT(4), message("x", rank=0), message("y", rank=1), deleted=True),
        tree(EFT(5), message("x", rank=0, deleted=True), message("y", rank=1, review_result=False),
             message("z", rank=2, lang="es"), message("w"), message("v", "prompter", rank=3), message(" ", rank=4)),
        tree(EFT(6), message("x", rank=0, deleted=True), message("y", rank=1)),
        tree(EFT(7), message("x", rank=1), message("y", rank=3), message("w")),
    ]  # fmt: skip
    run = Run(tmp_path, jsonl(tmp_path, *trees, name="oasst_ready.trees.jsonl.gz"))
    first, seventh = (prompt_id([turn("user", text)]) for text in (EFT(0), EFT(7)))
    assert set(run.answers["candidate_id", "text", "rank", "finish_reason", "quality"].rows()) == {
        (candidate_id(first, 0, 0), "b", 1, "stop", None),
        (candidate_id(first, 0, 1), "a", 0, "stop", None),
        (candidate_id(first, 0, 2), "c", 2, "stop", None),
        (candidate_id(seventh, 0, 0), "x", 0, "stop", None),
        (candidate_id(seventh, 0, 1), "y", 1, "stop", None),
    }
    assert run.tests["messages", "text", "rank"].rows() == [
        ([turn("user", TEST(0))], "worst", 1),
        ([turn("user", TEST(0))], "best", 0),
    ]
    assert sorted(run.ift["messages", "prompt_loss_weight"].rows(), key=str) == sorted(
        [
            ([turn("user", IFT(0)), turn("assistant", "first")], 0.0),
            ([turn("user", EFT(1)), turn("assistant", "only")], 0.0),
        ],
        key=str,
    )
    assert [run.reasons(row) for row in range(1, 11)] == [
        {},
        {},
        {"not_best": "prompt.replies.0: IFT takes the best answer alone"},
        {},
        {"not_ready": "tree_state is aborted_low_grade"},
        {"language": "prompt: lang is de, not en"},
        {"deleted": "prompt: deleted"},
        {
            "deleted": "prompt.replies.0: deleted",
            "failed_review": "prompt.replies.1: review_result is false",
            "language": "prompt.replies.2: lang is es, not en",
            "unranked": "prompt.replies.3: no rank",
            "role": "prompt.replies.4: role is prompter, not assistant",
            "empty": "prompt.replies.5: no text",
            "no_answers": "no usable answer is left",
        },
        {"deleted": "prompt.replies.0: deleted", "no_best": "the answer that people ranked best cannot be used"},
        {"unranked": "prompt.replies.2: no rank"},
    ]


def test_another_language_is_taken_when_asked_for(tmp_path: Path) -> None:
    german = tree(EFT(0), message("a", rank=0, lang="de"), message("b", rank=1, lang="de"), lang="de")
    run = Run(tmp_path, jsonl(tmp_path, german, tree(EFT(1))), language="de", test_fraction=0, ift_fraction=0)
    assert set(run.answers["text"]) == {"a", "b"}
    assert run.reasons(2) == {"language": "prompt: lang is en, not de"}


def test_the_same_records_come_from_lines_and_from_parquet(tmp_path: Path) -> None:
    records = [*BASE, plain(EFT(1), 3, 1)]
    table = tmp_path / "ranked.parquet"
    pq.write_table(pa.Table.from_pylist([{**record, "more": 1} for record in records]), table)
    lines, parquet = Run(tmp_path, jsonl(tmp_path, *records)), Run(tmp_path, table)
    assert lines.answers.equals(parquet.answers)
    assert lines.tests.equals(parquet.tests)
    assert lines.ift.equals(parquet.ift)


def test_a_tree_in_parquet_is_a_tree(tmp_path: Path) -> None:
    table = tmp_path / "trees.parquet"
    trees = [tree(EFT(number), message("a", rank=0), message("b", rank=1)) for number in range(2)]
    for record in trees:
        for node in [record["prompt"], *record["prompt"]["replies"]]:
            del node["labels"]  # Parquet has no struct without fields
    pq.write_table(pa.Table.from_pylist(trees), table)
    assert Run(tmp_path, table, test_fraction=0, ift_fraction=0).answers.height == 4


def test_prompts_of_any_conversation_form_are_understood(tmp_path: Path) -> None:
    answers = plain("", 0, 1)["answers"]
    turns = [turn("user", "Hi"), turn("assistant", "Hello"), turn("user", "1+1?")]
    records = [
        {"messages": turns, "system": "Be brief.", "answers": answers},
        {"conversations": [{"from": "human", "value": "Why?"}], "answers": answers},
        {"prompt": [turn("user", "How?")], "answers": answers},
    ]
    run = Run(tmp_path, jsonl(tmp_path, *records), test_fraction=0, ift_fraction=0)
    expected = [[turn("system", "Be brief."), *turns], [turn("user", "Why?")], [turn("user", "How?")]]
    assert {prompt_id(messages) for messages in expected} == set(run.prompts["prompt_id"])


def test_ranks_start_at_the_best_and_qualities_rank_where_ranks_are_missing() -> None:
    def ranks(answers: list[Record]) -> list[int]:
        return ranking.parse({"prompt": "p", "answers": answers}).ranks

    assert ranks([{"text": "a", "rank": 7}, {"text": "b", "rank": 1}, {"text": "c", "rank": 7}]) == [1, 0, 1]
    assert ranks([{"text": "a", "quality": 2}, {"text": "b", "quality": 4.5}, {"text": "c", "quality": 2.0}]) == [
        1,
        0,
        1,
    ]
    contradicting = [{"text": "a", "rank": 0, "quality": 1}, {"text": "b", "rank": 1, "quality": 5}]
    assert ranks(contradicting) == [0, 1]


def test_an_answer_given_twice_counts_once_with_its_better_rank(tmp_path: Path) -> None:
    texts = [("same", 2), ("other", 1), (" same\n", 0), ("", 3)]
    record = {"prompt": EFT(1), "answers": [{"text": text, "rank": rank} for text, rank in texts]}
    run = Run(tmp_path, jsonl(tmp_path, *BASE, record))
    key = prompt_id([turn("user", EFT(1))])
    kept = run.answers.filter(run.answers["prompt_id"] == key)
    assert kept["candidate_id", "text", "rank"].rows() == [
        (candidate_id(key, 0, 0), "other", 1),
        (candidate_id(key, 0, 1), " same\n", 0),
    ]
    assert run.reasons(4) == {"duplicate_answer": "answers.0 repeats answers.2", "empty": "answers.3: no text"}


def test_each_unusable_prompt_has_its_reason() -> None:
    records = [
        plain(EFT(0), 0, 1),
        plain(EFT(0), 1, 0),
        plain(EFT(1), 2, 2, 2),
        plain(EFT(2)),
        {"prompt": IFT(0), "answers": [{"text": "", "rank": 0}, {"text": "a", "rank": 1}, {"text": "b", "rank": 2}]},
        plain(IFT(1), 5, 5),
    ]
    outputs = gathered(records)
    reasons = [(row["row"], row["reason"]) for row in outputs.ledger]
    assert reasons == [
        (2, "duplicate"), (3, "all_tied"), (4, "no_answers"), (5, "empty"), (5, "no_best"), (6, "not_best"),
    ]  # fmt: skip
    assert [row["messages"][-1]["content"] for row in outputs.ift] == ["answer 0"]


def test_a_single_answer_serves_ift_only_where_there_is_ift() -> None:
    assert keys(gathered([plain(EFT(0), 4)]))["ift"] == {prompt_id([turn("user", EFT(0))])}
    alone = gathered([plain(EFT(0), 4)], ift_fraction=0)
    assert not alone.ift
    assert [row["reason"] for row in alone.ledger] == ["one_answer"]


def test_a_usable_prompt_counts_though_an_unusable_copy_came_first() -> None:
    outputs = gathered([plain(EFT(0), 0, 0), plain(EFT(0), 0, 1)])
    assert [row["rank"] for row in outputs.answers] == [0, 1]
    assert [row["reason"] for row in outputs.ledger] == ["all_tied"]


FRACTIONS = st.sampled_from([(0.0, 0.0), (0.25, 0.0), (0.3, 0.3), (0.0, 0.5)])
RECORDS = st.lists(
    st.builds(
        lambda prompt, answers: {
            "prompt": f"prompt {prompt}",
            "answers": [{"text": text, "rank": rank} for text, rank in answers],
        },
        st.integers(0, 12),
        st.lists(st.tuples(st.sampled_from(["a", "a ", "b", "c", "d", " "]), st.integers(0, 3)), max_size=4),
    ),
    max_size=12,
)


@given(RECORDS, FRACTIONS)
def test_every_row_and_every_answer_lands_in_one_place(records: list[Record], fractions: tuple[float, float]) -> None:
    outputs = gathered(records, *fractions)
    used = len(outputs.prompts) + len(outputs.ift)
    unused = [row for row in outputs.ledger if row["reason"] in UNUSED]
    assert used + len(unused) == len(records)
    uses = keys(outputs)
    assert sum(map(len, uses.values())) == used == len(set().union(*uses.values()))
    unused_rows = {row["row"] for row in unused}
    answers = sum(len(record["answers"]) for row, record in enumerate(records, 1) if row not in unused_rows)
    left_out = [row for row in outputs.ledger if row["row"] not in unused_rows]
    kept = len(outputs.answers) + len(outputs.tests) + len(outputs.ift)
    assert kept + sum(row["detail"].count("; ") + 1 for row in left_out) == answers
    for rows in (outputs.answers, outputs.tests):
        for key in {row["prompt_id"] for row in rows}:
            assert {row["rank"] for row in rows if row["prompt_id"] == key} >= {0, 1}


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=30, unique=True), FRACTIONS, st.randoms())
def test_a_prompts_use_depends_on_nothing_but_itself(
    numbers: list[int], fractions: tuple[float, float], rng: Any
) -> None:
    records = [plain(str(number), 0, 1) for number in numbers]
    shuffled = rng.sample(records, len(records))
    whole = keys(gathered(records, *fractions))
    assert keys(gathered(shuffled, *fractions)) == whole
    part = keys(gathered(shuffled[: len(shuffled) // 2], *fractions))
    assert all(part[use] <= whole[use] for use in whole)


def test_the_uses_have_their_shares_and_more_test_prompts_never_return_to_training() -> None:
    ids = [prompt_id([turn("user", str(number))]) for number in range(4000)]
    uses = [use_of(key, 0.25, 0.35) for key in ids]
    # Four standard deviations of a binomial share are below 0.031 here.
    assert uses.count("test") / 4000 == pytest.approx(0.25, abs=0.031)
    assert uses.count("ift") / 4000 == pytest.approx(0.35, abs=0.031)
    larger = [use_of(key, 0.4, 0.2) for key in ids]
    assert all(more == "test" for less, more in zip(uses, larger, strict=True) if less == "test")


def test_shards_split_the_answers_by_prompt_and_change_none(tmp_path: Path) -> None:
    source = jsonl(tmp_path, *(plain(f"p{number}", 0, 1, 2) for number in range(40)))
    one, three = Run(tmp_path, source), Run(tmp_path, source, shards=3)
    for shard, rows in enumerate(three.shards):
        assert all(shard_of(key, 3) == shard for key in rows["prompt_id"])
    assert one.answers.equals(three.answers.sort("prompt_id", "candidate_id"))


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"prompt": "p"}, "'answers'"),
        (plain(" ", 0, 1), "'prompt': empty user text"),
        ({"prompt": "p", "answers": ["a"]}, "'answers.0'"),
        ({"prompt": "p", "answers": [{"rank": 0}]}, r"'answers.0.text'"),
        ({"prompt": "p", "answers": [{"text": "a", "rank": 0.5}]}, r"'answers.0.rank'.*integer"),
        ({"prompt": "p", "answers": [{"text": "a", "rank": True}]}, r"'answers.0.rank'.*integer"),
        ({"prompt": "p", "answers": [{"text": "a", "rank": 0}, {"text": "b"}]}, r"'answers.1.rank' is missing"),
        ({"prompt": "p", "answers": [{"text": "a", "quality": 1}, {"text": "b"}]}, r"'answers.1.quality' is missing"),
        ({"prompt": "p", "answers": [{"text": "a", "quality": float("nan")}]}, r"'answers.0.quality'.*finite"),
        ({"prompt": "p", "answers": [{"text": "\ud800", "rank": 0}]}, r"'answers.0.text'.*surrogates"),
        ({"messages": [turn("user", "p"), turn("assistant", "a")], "answers": []}, "after its last user turn"),
        ({"message_id": "1", "text": "p"}, "none of the fields"),
        ({"message_tree_id": "t", "prompt": {}}, "'tree_state'"),
        (tree("p", {"role": "assistant"}), "'prompt.replies.0.text'"),
        (tree("p", message("a", rank="first")), "'prompt.replies.0.rank'"),
        ({**tree("p"), "prompt": None}, "'prompt'"),
        ([1], "expected an object"),
    ],
)
def test_a_malformed_record_is_refused_with_file_row_and_field(tmp_path: Path, record: Any, problem: str) -> None:
    source = jsonl(tmp_path, BASE[0], record)
    with pytest.raises(StageError, match=rf"ranked\.jsonl: row 2: .*{problem}"):
        Run(tmp_path, source)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("ranked.csv", b"x", "unsupported file type"),
        ("ranked.jsonl", b"", "the file holds no rows"),
        ("ranked.jsonl", b"{\n", "row 1: malformed JSON at character"),
        ("ranked.jsonl", b"\xff\n", "row 1: not UTF-8"),
        ("ranked.jsonl.gz", gzip.compress(b"{}" * 99)[:-9], "cannot be read after row 0"),
        ("ranked.parquet", b"PAR1", "cannot be read as Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StageError, match=rf"{name}: {problem}"):
        Run(tmp_path, tmp_path / name)


def test_missing_repeated_and_foreign_files_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "flat.parquet")
    with pytest.raises(StageError, match=r"flat\.parquet: none of the columns"):
        Run(tmp_path, tmp_path / "flat.parquet")
    with pytest.raises(StageError, match=r"absent\.jsonl: no such file \(listed in eft\.sources\)"):
        Run(tmp_path, tmp_path / "absent.jsonl")
    source = jsonl(tmp_path, *BASE)
    with pytest.raises(StageError, match=r"listed 2 times in eft\.sources"):
        Run(tmp_path, source, source)


@pytest.mark.parametrize("missing", ["eft", "test", "ift"])
def test_a_use_that_was_asked_for_must_get_prompts(tmp_path: Path, missing: str) -> None:
    records = [record for record in BASE if not record["prompt"].startswith(missing)]
    with pytest.raises(StageError, match=f"no prompt is left for {missing}"):
        Run(tmp_path, jsonl(tmp_path, *records))


@given(st.binary())
def test_the_parsers_refuse_or_read_any_line(line: bytes) -> None:
    try:
        record = decode(line)
        parsed = ranking.clean(ranking.parse(record))
    except FormatError:
        return
    assert len(parsed.ranks) == len(parsed.answers)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["prompt", "answers", "text", "rank", "quality", "replies", "role", "tree_state"]), inner
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_value_makes_the_parsers_fail_in_another_way(value: Any) -> None:
    for parse in (ranking.parse, lambda record: stage.openassistant.parse(record, "en")):
        try:
            parse(value)
        except FormatError as error:
            assert str(error)  # noqa: PT017


def test_the_stages_settings_are_those_of_the_configuration() -> None:
    for name in ("language", "test_fraction", "ift_fraction", "sources"):
        own, configured = stage.Args.model_fields[name], EftSection.model_fields[name]
        assert (own.annotation, own.description) == (configured.annotation, configured.description)
        assert own.is_required() or own.default == configured.default
