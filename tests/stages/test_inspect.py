"""The command that inspects: its pages and JSON, hostile text, errors of one sentence, and the recipes of its page."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from stages import inspect, tables
from stages.contracts.artifacts import provenance, read, write
from stages.contracts.errors import StageError
from stages.contracts.schema import frame
from tests.support import synthetic_rules as made

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/inspecting.md").read_text(encoding="utf-8")
RECIPES = {
    re.findall(r"^import (\w+)", code, re.MULTILINE)[-1]: code
    for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
}
HOSTILE = "[bold red]x[/] [/nothing] [link=file:///etc]y[/link] :skull: \x1b]0;title\x07 \x1b[2J \x9b31m \u202e\r end"


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """What the command prints."""
    inspect.main(inspect.parsed(list(map(str, words))))
    return capsys.readouterr().out


def test_a_path_alone_is_shown(run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run_directory / "iter-1/pair_ledger.parquet"
    page = shown(capsys, path)
    assert page == shown(capsys, "show", path)
    ledger = read(path, tables.PAIR_LEDGER)
    assert page.startswith(f"pair_ledger   {ledger.height} rows   {path}\n")
    assert f"One row: {tables.PAIR_LEDGER.row}. Key: kind, prompt_id, pair." in page
    assert "The numbers behind the reason." in page
    assert re.search(r"^settings_digest +5e77 *$", page, re.MULTILINE)
    assert [line.rstrip() for line in page.splitlines() if line.startswith("Row ")] == ["Row 1", "Row 2"]
    assert "Row 1" not in shown(capsys, "show", path, "--rows", "0")


def test_json_is_the_document_with_documented_keys(run_directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt = made.prompt_key(1, 2)
    questions = {
        "artifact": ["show", run_directory / "iter-1/scores.parquet"],
        "run": ["show", run_directory],
        "lineage": ["trace", run_directory, prompt],
        "reasons": ["why", run_directory, prompt],
        "difference": ["diff", run_directory, run_directory / "iter-1"],
    }
    for kind, words in questions.items():
        found = json.loads(shown(capsys, *words, "--json"))
        assert found["kind"] == kind
        described = PAGE.partition(f"- `{kind}`:")[2].partition("\n- `")[0]
        assert [key for key in found if key not in ("kind", "problems") and f"`{key}`" not in described] == []
        assert ("problems" in found) == (kind in ("lineage", "reasons", "difference"))
    scores = json.loads(shown(capsys, *questions["artifact"], "--json", "--rows", 1))
    assert scores["sample"] == read(run_directory / "iter-1/scores.parquet", tables.SCORES).head(1).to_dicts()


def test_pages_of_a_run_its_prompts_and_its_differences(
    run_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompt = made.prompt_key(1, 3)
    page = shown(capsys, run_directory)
    assert page.startswith(f"Run   {run_directory}   iterations: 1, 2, 3\n")
    assert re.search(r"^quality +1\.5 \[1\.4, 1\.6\] +2 \[1\.9, 2\.1\]", page, re.MULTILINE)
    assert re.search(r"^models/1 +train *$", page, re.MULTILINE)
    page = shown(capsys, "trace", run_directory, prompt)
    assert re.search(rf"{prompt}-1-0   score 3 \(ok\), tokens 10, finish_reason stop, logprob -10   Answer 0 to", page)
    assert "no actor pair   tie: all 4 scores are 3.0" in page
    page = shown(capsys, "why", run_directory, prompt)
    assert "iteration 1, actor   no pair: the best is not better than the worst (tie: all 4 scores are 3.0)" in page
    page = shown(capsys, "diff", run_directory / "iter-1", run_directory / "iter-2")
    assert re.search(r"^loss at the last step +0\.593 +0\.493 +-0\.1 *$", page, re.MULTILINE)
    assert "Settings that differ: none" in page


def hostile_run(folder: Path, source: Path) -> str:
    """A run whose texts, names and settings are hostile, with one prompt of which the key is returned."""
    prompt = read(source / "iter-1/prompts.parquet", tables.PROMPTS).head(1)
    key = prompt["prompt_id"][0]
    messages = pl.lit([{"role": HOSTILE, "content": HOSTILE}], dtype=prompt.schema["messages"])
    origin = {"stage": HOSTILE, "settings": {HOSTILE: HOSTILE}, "inputs": {HOSTILE: HOSTILE}}
    write(
        prompt.with_columns(messages=messages, source=pl.lit(HOSTILE)),
        folder / "iter-1/prompts.parquet",
        tables.PROMPTS,
        origin,
    )
    candidate = {
        "prompt_id": key, "candidate_id": f"{key}-1-0", "iteration": 1, "sample": 0, "seed": 1, "text": HOSTILE,
        "token_ids": [1], "tokens": 1, "finish_reason": HOSTILE,
    }  # fmt: skip
    write(frame(tables.CANDIDATES, [candidate]), folder / "iter-1/candidates/000.parquet", tables.CANDIDATES, origin)
    dropped = {"kind": HOSTILE, "prompt_id": key, "pair": 0, "reason": HOSTILE, "detail": HOSTILE}
    write(frame(tables.PAIR_LEDGER, [dropped]), folder / "iter-1/pair_ledger.parquet", tables.PAIR_LEDGER, origin)
    pl.DataFrame({HOSTILE: [HOSTILE]}).write_parquet(folder / "other.parquet")
    return key


@pytest.mark.parametrize("more", [(), ("--whole",), ("--json",)])
def test_hostile_text_stays_text(
    run_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...]
) -> None:
    key = hostile_run(tmp_path, run_directory)
    for words in (
        (tmp_path,),
        (tmp_path / "other.parquet",),
        (tmp_path / "iter-1/prompts.parquet",),
        (tmp_path / "iter-1/candidates",),
        (tmp_path / "iter-1/pair_ledger.parquet",),
        ("trace", tmp_path, key),
        ("why", tmp_path, key),
        ("diff", tmp_path, run_directory),
    ):
        page = shown(capsys, *words, *more)
        assert all(sign == "\n" or sign.isprintable() for sign in page)
        if words[0] not in (tmp_path, "diff"):
            assert "[bold red]x[/] [/nothing] [link=file:///etc]y[/link] :skull:" in re.sub(r"\s+│? *", " ", page)
            assert ("\\u001b[2J" if more == ("--json",) else "\\x1b[2J") in page


def test_long_texts_are_cut_unless_they_are_asked_for_whole(
    run_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pl.DataFrame({"text": ["x" * 300 + "\nend"]}).write_parquet(tmp_path / "long.parquet")
    page = shown(capsys, tmp_path / "long.parquet")
    assert f"{'x' * 100}… (+204)" in page
    assert "end" not in page
    assert re.search(r"^ +end *$", shown(capsys, "show", tmp_path / "long.parquet", "--whole"), re.MULTILINE)


def test_errors_are_one_sentence(run_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("none")
    (tmp_path / "empty").mkdir()
    for words, expected in (
        (["nowhere.parquet"], "nowhere.parquet: no such file"),
        ([tmp_path / "text.parquet"], "text.parquet: not a readable Parquet file"),
        ([tmp_path], "text.parquet: not a readable Parquet file"),
        ([tmp_path / "empty"], "empty: not the folder of a run"),
        (["trace", run_directory, "x"], "'x': no prompt_id"),
        (["why", run_directory, "0" * 16], "no prompt 0000000000000000"),
        (["diff", run_directory, tmp_path / "no"], "no: no such file or folder"),
    ):
        with pytest.raises(StageError, match=expected) as refused:
            inspect.main(inspect.parsed(list(map(str, words))))
        assert "\n" not in str(refused.value)


def test_the_program_ends_with_one_line_and_without_a_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stages.inspect", "nowhere"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "error: nowhere: no such file or folder\n")


def test_what_is_asked_wrongly_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in ((["diff", "a"], "required: B"), ([], "required"), (["trace", "a"], "required: ID")):
        with pytest.raises(SystemExit):
            inspect.parsed(words)
        assert told in capsys.readouterr().err


def expected_lines(run: Path) -> dict[str, list[str]]:
    """What each recipe prints, by its library."""
    one = run / "iter-1"
    ledger, votes = read(one / "pair_ledger.parquet", tables.PAIR_LEDGER), read(one / "votes.parquet", tables.VOTES)
    scores, pairs = read(one / "scores.parquet", tables.SCORES), read(one / "pairs.parquet", tables.PAIRS)
    by_sample = (
        scores.group_by(pl.col("candidate_id").str.slice(-1).cast(int)).agg(pl.col("score").mean()).sort("candidate_id")
    )
    counts = ledger.group_by("kind", "reason").len().sort("kind", "reason")
    known = votes["score"].drop_nulls()
    actor = pairs.filter(kind="actor")
    return {
        "polars": [f"{kind} {reason} {count}" for kind, reason, count in counts.iter_rows()],
        "duckdb": [f"{10 + sample} {round(score, 3)}" for sample, score in by_sample.iter_rows()],
        "pandas": [f"policy {len(known)} {round(known.mean(), 3)}"],  # type: ignore[arg-type]
        "datasets": [f"{pairs.height} {actor.height} prompt chosen rejected"],
        "pyarrow": [f"scores {provenance(one / 'scores.parquet')['settings']}"],
    }


@pytest.mark.parametrize(
    "library", ["polars", "duckdb", "pandas", pytest.param("datasets", marks=pytest.mark.slow), "pyarrow"]
)
def test_the_recipes_of_the_page_run(library: str, run_directory: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed; the page shows how it reads artifacts")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/tinyworld").symlink_to(run_directory)
    quiet = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RECIPES[library]],
        cwd=tmp_path, env={**os.environ, **quiet}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == expected_lines(run_directory)[library]
