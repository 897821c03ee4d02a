"""`ranked`: ranked answers give disjoint data for EFT, judge tests and IFT, and a ledger."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import ranked as stage
from stages.config import EftSection
from stages.contracts.errors import StageError
from stages.contracts.ids import candidate_id, prompt_id, shard_of
from stages.ranked import Outputs, collect, use_of
from stages.sources import ranked_records as ranking
from tests.support.ranked_run import BASE, EFT, IFT, Record, Run, jsonl, plain
from tests.support.records import turn
from tests.support.tiny_model import GEMMA, write_tokenizer

UNUSED = {"not_ready", "no_answers", "one_answer", "no_best", "all_tied", "duplicate"}


def gathered(records: list[Record], test_fraction: float = 0.3, ift_fraction: float = 0.3) -> Outputs:
    rows = ((f"s{number % 2}", number, ranking.parse(record)) for number, record in enumerate(records, start=1))
    return collect(rows, test_fraction, ift_fraction)


def keys(outputs: Outputs) -> dict[str, set[str]]:
    return {
        "eft": {row["prompt_id"] for row in outputs.prompts if row["split"] == "train"},
        "test": {row["prompt_id"] for row in outputs.prompts if row["split"] == "validation"},
        "ift": {row["example_id"].removeprefix("ift-") for row in outputs.ift},
    }


def test_the_same_records_come_from_lines_and_from_parquet(tmp_path: Path) -> None:
    records = [*BASE, plain(EFT(1), 3, 1)]
    table = tmp_path / "ranked.parquet"
    pq.write_table(pa.Table.from_pylist([{**record, "more": 1} for record in records]), table)
    lines, parquet = Run(tmp_path, jsonl(tmp_path, *records)), Run(tmp_path, table)
    assert lines.answers.equals(parquet.answers)
    assert lines.tests.equals(parquet.tests)
    assert lines.ift.equals(parquet.ift)


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
    ("name", "content", "problem"),
    [
        ("ranked.csv", b"x", "unsupported file type"),
        ("ranked.jsonl", b"", "the file holds no rows"),
        ("ranked.jsonl", b"{\n", "row 1: malformed JSON at character"),
        ("ranked.jsonl", b"\xff\n", "row 1: not UTF-8"),
        ("ranked.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], "cannot be read after row 0"),
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


def test_turns_that_the_template_refuses_are_decided_here_for_ift_alone(tmp_path: Path) -> None:
    """The judge is shown them as text."""
    write_tokenizer(tmp_path, GEMMA)
    system, joined = [turn("system", "Be brief."), turn("user", "Hi")], [turn("user", "Be brief.\n\nHi")]
    source = jsonl(tmp_path, *BASE, {**plain("", 0), "prompt": system})
    with pytest.raises(StageError, match=r"row 4: .*System role not supported.*chat\.system_turns"):
        Run(tmp_path, source, model=tmp_path)
    dropped = Run(tmp_path, source, model=tmp_path, chat={"system_turns": "drop_prompt"})
    assert list(dropped.reasons(4)) == ["template"]
    merged = Run(tmp_path, source, model=tmp_path, chat={"system_turns": "merge"})
    assert [*joined, turn("assistant", "answer 0")] in merged.ift["messages"].to_list()
    assert not merged.reasons(4)


def test_the_stages_settings_are_those_of_the_configuration() -> None:
    for name in ("language", "test_fraction", "ift_fraction", "sources"):
        own, configured = stage.Args.model_fields[name], EftSection.model_fields[name]
        assert (own.annotation, own.description) == (configured.annotation, configured.description)
        assert own.is_required() or own.default == configured.default
