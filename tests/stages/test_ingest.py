"""`ingest`: every bad input is one clear line, and every row lands in one place."""

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.contracts import artifacts
from stages.contracts.errors import StageError
from stages.contracts.ids import prompt_id
from stages.ingest import Args, ingest, main, split_of
from stages.sources.chat_records import Conversation
from stages.tables import INGEST_LEDGER, PROMPTS
from tests.support.records import turn
from tests.support.tiny_model import GEMMA, write_tokenizer

WORDS = "length_constraints:number_words"
REAL = Path(__file__).parents[3] / "shared" / "data" / "chat_sft_llama3_512.jsonl"


NO_COMMA = "punctuation:no_comma"
CHECKS = [{"id": NO_COMMA, "arguments": {}}, {"id": WORDS, "arguments": {"num_words": 20, "relation": "less than"}}]
GIVEN = [{"num_words": None}, {"num_words": 20, "relation": "less than", "keywords": None}]


def jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def run(folder: Path, *sources: Path, **settings: Any) -> tuple[pl.DataFrame, pl.DataFrame]:
    main(Args(sources=list(sources), prompts=folder / "prompts.parquet", ledger=folder / "ledger.parquet", **settings))
    return (
        artifacts.read(folder / "prompts.parquet", PROMPTS),
        artifacts.read(folder / "ledger.parquet", INGEST_LEDGER),
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"messages": [', "malformed JSON at character"),
        (b"[" * 200_000, "malformed JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}", "malformed JSON"),
        (b'{"prompt": "caf\xe9"}', "not UTF-8 (byte 16"),
        (b"[1]", "expected an object, found list"),
        (b"null", "expected an object, found null"),
        (b'{"text": "Hi"}', "'instruction' holds anything; found 'text'"),
        (b'{"messages": "Hi"}', "field 'messages': expected a list of turns, found text: malformed"),
        (b'{"messages": 3}', "field 'messages': expected a list of turns, found int"),
        (b'{"messages": []}', "field 'messages': empty conversation"),
        (b'{"conversations": []}', "field 'conversations': empty conversation"),
        (b'{"messages": ["Hi"]}', "field 'messages[0]': expected an object, found str"),
        (b'{"messages": [{"role": "user"}]}', "field 'messages[0].content' is missing; found 'role'"),
        (b'{"messages": [{"role": "usr", "content": "Hi"}]}', "field 'messages[0].role': unknown role 'usr'"),
        (b'{"conversations": [{"from": "Bob", "value": "Hi"}]}', "field 'conversations[0].from': unknown role 'Bob'"),
        (b'{"messages": [{"role": "assistant", "content": "Hi"}]}', "field 'messages': no user turn"),
        (b'{"messages": [{"role": "user", "content": " "}]}', "field 'messages[0].content': empty user text"),
        (b'{"prompt": ""}', "field 'prompt': empty user text"),
        (b'{"messages": [{"role": "user", "content": null}]}', "'messages[0].content': expected text, found null"),
        (
            b'{"messages": [{"role": "user", "content": [{}]}]}',
            "'messages[0].content[0].text': expected text, found null",
        ),
        (b'{"prompt": "Hi", "system": 3}', "field 'system': expected text, found int"),
        (b'{"prompt": "Hi", "sampling_hint": 3}', "field 'sampling_hint': expected text, found int"),
        (b'{"prompt": "a\\ud800"}', "field 'prompt': character 2 is not valid Unicode"),
        (b'{"conversations": [{"from": "User", "value": "Hi"}], "mask": "Assistant"}', "'mask' must name the user's"),
    ],
)
def test_a_bad_row_is_one_line_that_names_file_row_and_field(tmp_path: Path, line: bytes, message: str) -> None:
    """D27: any error in a row silently changed the way in which the file was read."""
    source = tmp_path / "chat.jsonl"
    source.write_bytes(b'{"prompt": "fine"}\n\n' + line + b"\n")
    (tmp_path / "prompts.parquet").write_text("old")
    with pytest.raises(StageError) as caught:
        run(tmp_path, source)
    assert str(caught.value).startswith(f"{source}: row 3: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chat.jsonl", "prompts.parquet"]
    assert (tmp_path / "prompts.parquet").read_text() == "old"


def test_bad_files_are_named(tmp_path: Path) -> None:
    good = jsonl(tmp_path / "good.jsonl", {"prompt": "Hi"})
    for name, content, message in [
        ("chat.csv", b"prompt\nHi\n", "unsupported file type"),
        ("empty.jsonl", b"\n", "the file holds no conversations"),
        ("cut.jsonl.gz", gzip.compress(b'{"prompt": "Hi"}\n' * 50)[:-9], "cannot be read after row"),
        ("plain.jsonl.gz", b'{"prompt": "Hi"}\n', "cannot be read after row 0"),
        ("broken.parquet", b"PAR1 no", "cannot be read as Parquet"),
    ]:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(StageError, match=f"^{path}: {message}"):
            run(tmp_path, good, path)
    with pytest.raises(StageError, match=r"missing.jsonl: no such file"):
        run(tmp_path, good, tmp_path / "missing.jsonl")
    with pytest.raises(StageError, match=r"good.jsonl: listed 2 times"):
        run(tmp_path, good, good)
    assert not (tmp_path / "prompts.parquet").exists()


def test_duplicates_across_files_and_overlong_rows_are_in_the_ledger(tmp_path: Path) -> None:
    first = jsonl(tmp_path / "a.jsonl", {"prompt": "Hi"}, {"prompt": "far too long"})
    second = jsonl(tmp_path / "b.jsonl", {"messages": [turn("user", " Hi\n"), turn("assistant", "!")]}, {"prompt": "B"})
    prompts, ledger = run(tmp_path, first, second, max_prompt_characters=4)
    hi = prompt_id([turn("user", "Hi")])
    assert set(prompts.select("source", "row", "answer").rows()) == {(str(first), 1, None), (str(second), 2, None)}
    assert ledger.rows() == [
        (str(first), 2, "overlong", "12 characters, limit 4"),
        (str(second), 1, "duplicate", f"repeats prompt {hi} of {first}, row 1"),
    ]
    with pytest.raises(
        StageError, match=r"of 2 rows: 0 cannot be used, 2 have more than 1 char.*raise ingest.max_prompt_char"
    ):
        run(tmp_path, first, max_prompt_characters=1)


def test_checks_are_stored_as_json_and_read_alike_from_all_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {"instruction_id_list": [NO_COMMA, WORDS], "kwargs": GIVEN}
    records = [{"prompt": "Größe?", **fields}, {"prompt": "Hi", "instruction_id_list": None, "kwargs": None}]
    plain, table = jsonl(tmp_path / "chat.jsonl", *records), tmp_path / "chat.parquet"
    pl.DataFrame(records).write_parquet(table)
    for source in (plain, table):
        prompts, _ = run(tmp_path, source)
        checks = dict(prompts.select("row", "checks").rows())
        assert json.loads(checks[1]) == CHECKS
        assert checks[2] is None
        assert "2 train and 0 validation prompts (1 with checks)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            b'{"prompt": "Hi", "verifier_args": {"instruction_id_list": ["a", "b"], "instruction_kwargs": [{}]}}',
            "field 'verifier_args.instruction_kwargs': 1 entries for 2 instructions",
        ),
        (b'{"prompt": "Hi", "instruction_id_list": []}', "field 'kwargs': expected a list, found null"),
        (
            b'{"prompt": "Hi", "verifier_args": {"instruction_id_list": ["a:b"], "instruction_kwargs": [{}]}}',
            "field 'verifier_args.instruction_id_list[0]': unknown instruction 'a:b'; known are",
        ),
        (
            b'{"prompt": "Hi", "instruction_id_list": ["startend:end_checker"], "kwargs": [{"end_phrase": null}]}',
            "field 'kwargs[0]': argument 'end_phrase' of startend:end_checker: Field required",
        ),
        (
            b'{"prompt": "Hi", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"x\\n": "\\ud800"}]}',
            "field 'kwargs[0]': argument 'x\\n' of punctuation:no_comma: Extra inputs",
        ),
        (
            b'{"prompt": "Hi", "instruction_id_list": ["startend:end_checker"], "kwargs": [{"end_phrase": "\\ud800"}]}',
            "field 'kwargs[0]': argument 'end_phrase' of startend:end_checker: ",
        ),
        (
            b'{"prompt": "Hi", "instruction_id_list": [["a"]], "kwargs": [{}]}',
            "'instruction_id_list[0]': expected text",
        ),
        (
            b'{"prompt": "Hi", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [3]}',
            "field 'kwargs[0]': expected an object, found int",
        ),
    ],
)
def test_checks_that_nothing_can_follow_are_left_out_and_told(tmp_path: Path, line: bytes, message: str) -> None:
    """The prompt is as good as any: only `verify` asks for checks."""
    source = tmp_path / "chat.jsonl"
    source.write_bytes(line + b"\n")
    prompts, ledger = run(tmp_path, source)
    assert prompts["checks"].to_list() == [None]
    assert ledger.select("row", "reason").rows() == [(1, "checks")]
    assert message in ledger["detail"][0]


def test_a_hint_for_samples_is_kept_beside_its_prompt(tmp_path: Path) -> None:
    prompts, _ = run(
        tmp_path, jsonl(tmp_path / "chat.jsonl", {"prompt": "Hi", "sampling_hint": "Say: HO."}, {"prompt": "Ha"})
    )
    assert dict(prompts.select("row", "sampling_hint").rows()) == {1: "Say: HO.", 2: None}
    assert [turn["content"] for messages in prompts["messages"] for turn in messages] == ["Hi", "Ha"]


def test_arguments_of_another_verifier_are_no_checks(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "chat.jsonl", {"prompt": "2+2?", "verifier_args": {"ground_truth": "4"}})
    prompts, ledger = run(tmp_path, source)
    assert prompts["checks"].to_list() == [None]
    assert ledger.is_empty()


ODD = [
    {"messages": [turn("user", "a"), {"role": "assistant", "content": None, "tool_calls": [{}]}]},
    {"messages": [turn("user", "b"), turn("tool", "4")]},
    {"conversations": [{"from": "human", "value": "c"}, {"from": "observation", "value": "4"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
    {"messages": [turn("user", " ")]},
    {"messages": []},
]


def test_rows_that_cannot_be_used_are_in_the_ledger_and_few_of_them_stop_nothing(tmp_path: Path) -> None:
    """As they stand in data that people share (open-instruct#1800)."""
    source = jsonl(tmp_path / "chat.jsonl", *ODD, *({"prompt": f"question {number}"} for number in range(14)))
    with pytest.raises(StageError, match=r"row 1: .*row 2: .*row 3: .*Of 20 rows, 6 cannot be used.*ingest.max_bad_"):
        run(tmp_path, source)
    assert not (tmp_path / "prompts.parquet").exists()
    with pytest.raises(
        StageError, match=r"chat.jsonl: row 1: field 'messages\[1\].content': expected text, found null$"
    ):
        run(tmp_path, source, strict=True, max_bad_rows=1)
    prompts, ledger = run(tmp_path, source, max_bad_rows=0.3)
    assert prompts.height == 14
    assert ledger.select("row", "reason").rows() == [(row, "unusable") for row in range(1, 7)]
    assert "only text can be used, found 'image_url'" in ledger["detail"][3]


@pytest.mark.parametrize("twin", ["GRO\u0308SSE?", "größe?\u200b", " Größe ?".replace(" ?", "?"), "Größe?\n"])
def test_near_twins_are_one_prompt(tmp_path: Path, twin: str) -> None:
    prompts, ledger = run(tmp_path, jsonl(tmp_path / "chat.jsonl", {"prompt": "Größe?"}, {"prompt": twin}))
    assert prompts["messages"].to_list() == [[turn("user", "Größe?")]]
    assert ledger.select("row", "reason").rows() == [(2, "duplicate")]


def test_equal_prompts_are_duplicates_whatever_their_checks(tmp_path: Path) -> None:
    source = jsonl(
        tmp_path / "chat.jsonl",
        {"prompt": "Hi"},
        {"prompt": "Hi", "instruction_id_list": [NO_COMMA], "kwargs": [{}]},
    )
    prompts, ledger = run(tmp_path, source)
    assert prompts["checks"].to_list() == [None]
    assert ledger.select("row", "reason").rows() == [(2, "duplicate")]


ROWS = st.lists(st.text("ab", min_size=1, max_size=4))


@given(ROWS, st.floats(0, 0.9), st.none() | st.integers(1, 4))
def test_each_row_lands_in_exactly_one_table(texts: list[str], fraction: float, limit: int | None) -> None:
    rows = [("s", row, Conversation([turn("user", text)], None)) for row, text in enumerate(texts, start=1)]
    prompts, ledger = ingest(rows, fraction, limit)
    assert sorted(item["row"] for item in prompts + ledger) == list(range(1, len(texts) + 1))
    kept = {text for text in texts if limit is None or len(text) <= limit}
    assert Counter(item["messages"][0]["content"] for item in prompts) == Counter(kept)


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_the_split_only_grows_with_the_fraction(prompt: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert split_of(prompt, low) == "train" or split_of(prompt, high) == "validation"
    assert split_of(prompt, 0.0) == "train"
    assert split_of(prompt, 1.0) == "validation"


def test_the_split_has_the_asked_share_and_ignores_the_seed(tmp_path: Path) -> None:
    source = jsonl(tmp_path / "chat.jsonl", *({"prompt": f"Question {number}"} for number in range(2000)))
    prompts, _ = run(tmp_path, source, validation_fraction=0.2, seed=1)
    held_out = prompts.filter(pl.col("split") == "validation")["prompt_id"].to_list()
    assert abs(len(held_out) - 400) < 4 * (2000 * 0.2 * 0.8) ** 0.5  # four standard deviations of the binomial
    again, _ = run(tmp_path, source, validation_fraction=0.2, seed=2)
    assert again.equals(prompts)


@pytest.mark.skipif(not REAL.exists(), reason="the real chat data (../shared/data) is not on this machine")
def test_real_nemo_data(tmp_path: Path) -> None:
    prompts, ledger = run(tmp_path, REAL)
    assert prompts.height + ledger.height == 512
    assert set(ledger["reason"]) <= {"duplicate"}
    raw = [json.loads(line)["conversations"] for line in REAL.read_text(encoding="utf-8").splitlines()]
    for row, messages, answer in prompts.select("row", "messages", "answer").rows():
        assert [message["content"] for message in messages] == [item["value"] for item in raw[row - 1][:-1]]
        assert messages[-1]["role"] == "user"
        assert answer == raw[row - 1][-1]["value"]


def test_turns_that_the_models_template_refuses_are_decided_here(tmp_path: Path) -> None:
    """LLaMA-Factory#8217: they passed ingest, and ended the generation of candidates."""
    write_tokenizer(tmp_path, GEMMA)
    system, joined = [turn("system", "Be brief."), turn("user", "Hi")], [turn("user", "Be brief.\n\nHi")]
    source = jsonl(tmp_path / "a.jsonl", {"prompt": "Hi"}, {"messages": system}, {"messages": joined})
    with pytest.raises(StageError, match=r"a\.jsonl: row 2: .*System role not supported.*chat\.system_turns"):
        run(tmp_path, source, model=tmp_path)
    prompts, ledger = run(tmp_path, source, model=tmp_path, chat={"system_turns": "drop_prompt"})
    assert sorted(prompts["row"]) == [1, 3]
    assert ledger.select("row", "reason").rows() == [(2, "template")]
    assert "System role not supported" in ledger["detail"][0]
    prompts, ledger = run(tmp_path, source, model=tmp_path, chat={"system_turns": "merge"})
    found = prompts.filter(pl.col("row") == 2)
    assert found["messages"].to_list() == [joined]
    assert found["prompt_id"].to_list() == [prompt_id(joined)]
    assert ledger.select("row", "reason").rows() == [(3, "duplicate")]
