"""The report: right numbers, everything joined by key, untrusted text harmless, nothing from the network."""

import gzip
import json
import random
import re
from base64 import b64decode, b64encode
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages import report, tables
from stages.contracts import ids
from stages.contracts.errors import StageError
from stages.reporting.page import FOLDER, packed
from stages.reporting.run_files import Source
from stages.reporting.samples import Tables, follow
from tests.support import synthetic_rules as made
from tests.support import synthetic_run
from tests.support.report_page import CONFIGURED, Page, table, write_page

HEAD = ["Model", "True quality", "Greedy quality", "Judge accuracy", "Spearman", "Meta-judge accuracy", "Mean length"]
GAINS = ["Model", "True quality", "Greedy quality", "Judge accuracy", "Mean length", "In words"]
WARNING = "iteration 1: the judgement with the higher score wins 92% of the verdicts"
ROW_BASE = ["base", "1.50 ± 0.10", "1.65", "89.0% -2.0% +3.0%", "0.200 ± 0.050", "55.0% ± 5.0%", "32.5 ± 1.5"]
ROW_3 = ["3", "3.50 ± 0.10", "4.05", "93.0% -2.0% +3.0%", "0.400 ± 0.050", "75.0% ± 5.0%", "28.5 ± 1.5"]


def test_headline_table_on_the_page(page: Page) -> None:
    assert page.texts["th"][: len(HEAD)] == HEAD
    numbers = [text for text in page.texts["td"] if text.strip()]
    assert numbers[: len(HEAD)] == ROW_BASE
    assert numbers[4 * len(HEAD) : 5 * len(HEAD)] == ROW_3


def after_headline(page: Page) -> tuple[list[str], list[str]]:
    """Heads and cells of the tables below the headline's."""
    heads, cells = ([text for text in page.texts[tag] if text.strip()] for tag in ("th", "td"))
    return heads[len(HEAD) :], cells[5 * len(HEAD) :]


def test_gains_stand_below_the_headline(page: Page) -> None:
    """Every held-out answer is better by 1 than the model before's but
    for 10 of the 40 of model 3, which were at 5 already. Standard error sqrt(0.75 * 0.25 / 39), t = 2.023."""
    heads, cells = after_headline(page)
    assert heads[: len(GAINS)] == GAINS
    rows = [cells[start : start + len(GAINS)] for start in range(0, 4 * len(GAINS), len(GAINS))]
    assert rows[0] == ["0", "+1.00", "+1.00", "+0.0%", "+0.0", "no spread was seen"]
    assert rows[3] == ["3", "+0.75 ± 0.14", "+0.75 ± 0.14", "+0.0%", "+0.0", "better"]


def test_judge_tables_have_every_metric_that_was_measured(page: Page) -> None:
    """The gains are followed by the paper's table of the judge and the one of the meta-judge."""
    heads, cells = after_headline(page)
    heads, cells = heads[len(GAINS) :], cells[4 * len(GAINS) :]
    judge = ["Pairwise accuracy", "5-best", "Exact match", "Spearman", "Kendall τ-b", "Calibration error", "Parsed"]
    judge = ["Model", *judge, "First vote exact", "Mean score"]
    meta = ["Model", "Accuracy", "First slot wins", "Order flips"]
    assert heads[: len(judge) + len(meta)] == [*judge, *meta]
    row = ["90.0% -2.0% +3.0%", "40.0% ± 5.0%", "10.0% ± 5.0%", "0.250 ± 0.050", "0.200", "0.125"]
    row += ["100.0%", "70.0% ± 10.0%", "1.25"]
    assert cells[len(judge) : 2 * len(judge)] == ["0", *row]
    cells = cells[5 * len(judge) :]
    assert cells[len(meta) : 2 * len(meta)] == ["0", "60.0% ± 5.0%", "75.0% ± 5.0%", "50.0%"]


def test_a_warning_stands_before_all_sections(page: Page) -> None:
    """The higher score wins in both orders, but for ties and every fifth prompt, where the first one does."""
    assert page.texts["b"][0] == f"{WARNING}.".capitalize()
    assert [text for text in page.texts["h2"] if text.strip()][:2] == ["Warnings", "Does it get better?"]


def test_cost_by_stage(page: Page) -> None:
    heads, cells = after_headline(page)
    start = heads.index("Stage", heads.index("On held-out pairs"))
    names = ["Stage", "Jobs", "Time", "Of all", "Peak memory", "Of a rank", "Tokens/s"]
    assert heads[start : start + len(names)] == names
    first = cells.index("1:00:30") - 2
    judge = ["judge", "2", "1:00:30", "90.8%", "2.00 GiB", "8"]
    assert cells[first : first + 6] == judge, "1440 judgements of 20 tokens, and no ranks"
    first = cells.index("sft")
    assert cells[first : first + 7] == ["sft", "1", "0:02:49", "4.2%", "1.50 GiB", "2.00 GiB", "200"]


def test_trends_by_iteration(page: Page, run_directory: Path) -> None:
    """Candidates have 10 to 13 tokens, all different; judgements 20 each, so that no longer one wins. Of the 10 steps
    the last 4 see the 30 pairs once: accuracies 0.5 + 0.01 * iteration * step with a mean step of 8.5."""
    heads, cells = after_headline(page)
    start = heads.index("Iteration")
    names = ["Iteration", "Score against length", "Chosen longer by", "Score gap", "Distinct candidates"]
    names += ["Implicit reward agrees", "On held-out pairs"]
    assert heads[start : start + len(names)] == names
    first = cells.index("100.0%", len(cells) - cells[::-1].index("50.0%"))
    assert cells[first : first + 2] == ["100.0%", "58.5%"], "iteration 1"
    assert cells[first + 6 : first + 9] == ["100.0%", "67.0%", "55.0%"], "iteration 2, with held-out pairs"
    pairs = table(run_directory, 1, "pairs.parquet", tables.PAIRS).filter(kind="actor")
    gaps = pairs["score_chosen"] - pairs["score_rejected"]
    longer = pairs["chosen_token_ids"].list.len().mean() - pairs["rejected_token_ids"].list.len().mean()
    assert cells[first - 2 : first] == [f"{longer:+.1f}", f"{gaps.mean():.2f}"]


def test_captions_say_how_it_was_drawn(page: Page, html: str) -> None:
    """As the files' own settings say, not as is usual."""
    texts = " ".join(page.texts["p"])
    assert "true quality and length of 1 sample at temperature 0.7 each" in texts
    assert "judge accuracy by 3 votes at temperature 0.9 on each test response" in texts
    assert "Share of the parsed votes at each score; on each candidate 3 votes at temperature 0.8." in texts
    assert "Mean tokens of the sampled responses; of each held-out prompt 1 sample at temperature 0.7." in texts
    assert "temperature 1" not in texts


def test_main_prints_headline_and_path(
    run_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], html: str
) -> None:
    output = tmp_path / "again.html"
    capsys.readouterr()
    write_page(run_directory, output)
    lines = capsys.readouterr().out.splitlines()
    assert [re.split(r"\s{2,}", line.strip()) for line in lines[:6]][:2] == [HEAD, ROW_BASE]
    assert re.split(r"\s{2,}", lines[5].strip()) == ROW_3
    assert [line.split(".")[0] for line in lines[7:-1]] == [f"Warning: {WARNING}"]
    assert lines[-1] == f"Report: {output}"
    assert output.read_text(encoding="utf-8") == html, "the same run must give the same page"


def followed(page: Page, iteration: int, number: int) -> dict[str, Any]:
    key = made.prompt_key(iteration, number)
    (prompt,) = [item for item in page.data["iterations"][iteration - 1]["prompts"] if item["prompt_id"] == key]
    return prompt


def test_a_prompt_is_followed_through_all_tables(page: Page, run_directory: Path) -> None:
    iteration, number = 2, 4  # candidate 3 varies most: votes 0, 1, 2; the higher score wins both orders
    assert [made.vote_score(iteration, number, 3, vote) for vote in range(3)] == [0, 1, 2]
    prompt = followed(page, iteration, number)
    assert prompt["messages"] == made.messages(iteration, number)
    for sample, candidate in enumerate(prompt["candidates"]):
        assert candidate["candidate_id"] == ids.candidate_id(prompt["prompt_id"], iteration, sample)
        assert candidate["text"] == made.response(iteration, number, sample)
        assert candidate["tokens"] == 10 + sample
        given = [made.vote_score(iteration, number, sample, vote) for vote in range(3)]
        valid = [score for score in given if score is not None]
        assert candidate["score"] == pytest.approx(sum(valid) / len(valid))
        assert [judgement["score"] for judgement in candidate["judgements"]] == given
        for judgement, score in zip(candidate["judgements"], given, strict=True):
            assert "".join(judgement["parts"]) == made.judgement(score, sample)
            assert judgement["parts"][1:2] == ([] if score is None else [f"Score: {score:g}"])
    scores = table(run_directory, iteration, "scores.parquet", tables.SCORES)
    scores = scores.filter(pl.col("prompt_id") == prompt["prompt_id"]).sort("score", "candidate_id")
    actor = next(pair for pair in prompt["pairs"] if pair["kind"] == "actor")
    by_id = dict(scores.select("candidate_id", "score").iter_rows())
    assert by_id[actor["chosen_candidate_id"]] == scores["score"].max()
    assert by_id[actor["rejected_candidate_id"]] == scores["score"].min()


def test_verdicts_ratings_and_judge_pair_belong_to_their_candidate(page: Page) -> None:
    prompt = followed(page, 1, 1)  # candidate 1 has the votes 4, 5, 0; the higher score wins in both orders
    assert [made.vote_score(1, 1, 1, vote) for vote in range(3)] == [4, 5, 0]
    compared = prompt["candidates"][1]
    assert [judgement["rating"] for judgement in compared["judgements"]] == [1000, 1200, 800]
    winners = {(verdict["vote_a"], verdict["vote_b"]): verdict["winner"] for verdict in compared["verdicts"]}
    assert winners == {(0, 1): "b", (1, 0): "a", (0, 2): "a", (2, 0): "b", (1, 2): "a", (2, 1): "b"}
    assert all(made.SCRIPT in verdict["text"] for verdict in compared["verdicts"])
    (judge,) = [pair for pair in prompt["pairs"] if pair["kind"] == "judge"]
    assert (judge["chosen_vote"], judge["rejected_vote"]) == (1, 2)
    assert judge["chosen_candidate_id"] == compared["candidate_id"]
    others = [candidate for candidate in prompt["candidates"] if candidate is not compared]
    assert all(candidate["verdicts"] == [] for candidate in others)


def test_a_dropped_prompt_shows_its_reason(page: Page) -> None:
    prompt = followed(page, 3, 3)  # every candidate of prompt 3 has the votes 3, 3, 3; iteration 3 compares nothing
    assert prompt["pairs"] == []
    assert [(drop["kind"], drop["reason"]) for drop in prompt["drops"]] == [("actor", "tie")]


def test_joins_do_not_depend_on_the_order_of_rows(run_directory: Path) -> None:
    source = Source(run_directory, **CONFIGURED)
    here = vars(report._read_iterations(source)).copy()
    wanted = [made.prompt_key(1, 1), made.prompt_key(1, 9)]
    for name, kind in (
        ("candidates", tables.CANDIDATES),
        ("judgements", tables.JUDGEMENTS),
        ("verdicts", tables.VERDICTS),
    ):
        here[name] = source.shards(1, name, kind, list(kind.columns), wanted)
    shuffled = {name: rows.sample(fraction=1, shuffle=True, seed=3) for name, rows in here.items()}
    expected = follow(wanted, Tables(**here), 10**9)
    assert [prompt["prompt_id"] for prompt in expected] == wanted
    assert follow(wanted, Tables(**shuffled), 10**9) == expected
    assert follow(wanted, Tables(**shuffled), 10) == expected[:1], "the limit cuts the list, but never to nothing"


def test_untrusted_text_is_inert(page: Page, html: str) -> None:
    tags = Counter(tag for tag, _ in page.elements)
    assert tags["img"] == 0
    assert tags["script"] == 2
    assert re.fullmatch("[A-Za-z0-9+/]+=*", page.texts["data"][0])
    assert followed(page, 1, 1)["messages"][-1]["content"].endswith("? " + made.TEMPLATE)
    assert followed(page, 1, 0)["messages"][-1]["content"].endswith(made.SCRIPT)
    assert page.texts["title"][0] == page.texts["h1"][0] == f"Run {made.SCRIPT}"


def test_own_script_inserts_text_only() -> None:
    source = (FOLDER / "page.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", source)


def test_page_asks_nothing_of_the_network(page: Page, html: str) -> None:
    links = [
        (tag, name) for tag, attrs in page.elements for name in attrs if name in {"src", "href", "srcset", "action"}
    ]
    assert {tag for tag, _ in links} == {"a"}, "to sections of the page"
    anchors = {attrs["href"] for tag, attrs in page.elements if tag == "a"}
    assert anchors <= {f"#{attrs['id']}" for _, attrs in page.elements if "id" in attrs}
    assert {"#does-it-get-better", "#cost", "#follow"} <= anchors
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.elements}
    (policy,) = [attrs["content"] for _, attrs in page.elements if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(r"https?://|@import|url\(", html)
    assert "style=" not in html, "the policy would refuse it"


def test_policy_lets_the_pages_own_script_and_style_through(html: str) -> None:
    for kind, opening in (("script-src", "<script>"), ("style-src", "<style>")):
        text = html.partition(opening)[2].partition(f"</{opening[1:]}")[0]
        assert len(text) > 1000
        given = b64encode(sha256(text.encode()).digest()).decode()
        assert f"{kind} &#39;sha256-{given}&#39;" in html


def test_the_page_stays_small(run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it shows: random signs of two bytes can hardly be compressed."""
    monkeypatch.setattr(made, "PROMPTS_EACH", 200)
    signs = [chr(code) for code in range(0x80, 0x800)]
    monkeypatch.setattr(made, "response", lambda *numbers: "".join(random.Random(str(numbers)).choices(signs, k=1000)))
    run = synthetic_run.build(tmp_path / "run")
    write_page(run, tmp_path / "large.html")
    size = (tmp_path / "large.html").stat().st_size
    assert report.SAMPLE_BYTES < size < 1_500_000
    page = Page((tmp_path / "large.html").read_text(encoding="utf-8"))
    shown = [len(iteration["prompts"]) for iteration in page.data["iterations"]]
    assert 10 < min(shown) <= max(shown) < report.SAMPLE_PROMPTS


def test_provenance_names_each_file(page: Page) -> None:
    cells = [text for text in page.texts["td"] if text.strip()]
    start = cells.index("iter-2/pairs.parquet")
    assert cells[start : start + 6] == ["iter-2/pairs.parquet", "pairs", "c0de", "5e77", "model-of-pairs", "7"]
    assert cells.count("iter-1/candidates/0.parquet") == 1, "read for the numbers and for the sample"
    assert {"iter-1/battles.parquet", "evaluation/0/summary.parquet", "iter-3/candidates/1.parquet"} <= set(cells)
    assert {"evaluation/base/summary.parquet", "eft/ledger.parquet", "iter-2/creation_ledger.parquet"} <= set(cells)


def test_what_an_earlier_configuration_compared_or_created_is_not_read(page: Page, run_directory: Path) -> None:
    cells = set(page.texts["td"])
    compared = [f"iter-3/{name}.parquet" for name in ("battles", "ratings", "verdicts/0")]
    for name in (*compared, "iter-1/created_prompts.parquet", "iter-1/creation_ledger.parquet"):
        assert (run_directory / name).exists()
        assert name not in cells
    with pytest.raises(StageError, match=r"iter-3/battles\.parquet: not a readable Parquet file"):
        Source(run_directory, 3, meta_iterations=[3]).every("battles.parquet", tables.BATTLES)
    with pytest.raises(StageError, match=r"iter-1/creation_ledger\.parquet: not a readable Parquet file"):
        Source(run_directory, 3, create_iterations=[1]).every("creation_ledger.parquet", tables.CREATION_LEDGER)


@given(st.recursive(st.text() | st.none() | st.integers(), lambda inner: st.lists(inner), max_leaves=8))
def test_packed_data_round_trip_and_cannot_leave_their_element(value: Any) -> None:
    text = packed([value, made.SCRIPT])
    assert json.loads(gzip.decompress(b64decode(text))) == [value, made.SCRIPT]
    assert re.fullmatch("[A-Za-z0-9+/]+=*", text)
    assert packed([value, made.SCRIPT]) == text


def test_missing_files_are_named(tmp_path: Path, run_directory: Path) -> None:
    with pytest.raises(StageError, match=r"evaluation/4/summary\.parquet: no such file"):
        report.main(report.Args(run=run_directory, iterations=4, output=tmp_path / "x.html"))
    with pytest.raises(StageError, match="iter-9/candidates: no Parquet files"):
        report.Source(run_directory, 9).shards(9, "candidates", tables.CANDIDATES, ["prompt_id"], [])
    assert not (tmp_path / "x.html").exists()
