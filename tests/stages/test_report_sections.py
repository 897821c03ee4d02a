"""The sections of the report: their charts show what the tables hold, and what was not configured has none."""

from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from stages import tables
from stages.contracts.errors import StageError
from stages.reporting import charts, kept
from stages.reporting.run_files import Source
from tests.support import synthetic_rules as made
from tests.support.report_page import Page, table


def test_held_out_readings_stand_beside_the_training_curves(page: Page, run_directory: Path) -> None:
    metrics = Source(run_directory, 3).every("train/metrics.parquet", tables.TRAIN_METRICS)
    drawn = {chart.title: chart for chart in charts.training_charts(metrics)}
    titles = ["Loss", "Preference accuracy", "Reward margin", "Log-probability of the members"]
    assert list(drawn) == [*titles, "Loss on held-out answers"]
    assert set(drawn) <= set(page.texts["h3"])
    for title, name in (("Loss", "loss"), ("Preference accuracy", "accuracy")):
        *training, dotted = drawn[title].figure.series
        assert [trace.name for trace in training] == ["iteration 1", "iteration 2", "iteration 3"]
        readings = [row for step in (0, 5, 10) for row in made.held_out(step) if row["metric"] == f"validation/{name}"]
        assert dotted.name == f"iteration {made.VALIDATED}, held out"
        assert [dotted.x, dotted.y] == [[row[key] for row in readings] for key in ("step", "value")]
        assert (dotted.dotted, dotted.colour) == (True, training[made.VALIDATED - 1].colour)
        assert not any(trace.dotted for trace in training)
        assert drawn[title].note.endswith("Dotted: over all held-out pairs.")
    (answers,) = drawn["Loss on held-out answers"].figure.series
    assert (answers.name, answers.y) == ("iteration 2", [2.0, 1.9, 1.8])
    assert len({trace.colour for trace in drawn["Loss"].figure.series}) == 3
    unmeasured = charts.training_charts(metrics.filter(pl.col("iteration") != made.VALIDATED))
    assert [chart.title for chart in unmeasured] == titles
    assert not any("Dotted" in chart.note for chart in unmeasured)
    assert {trace.name for trace in unmeasured[0].figure.series} == {"iteration 1", "iteration 3"}


def test_outcomes_agree_with_pairs_and_ledger(page: Page, run_directory: Path) -> None:
    for iteration in (1, 2, 3):
        pairs = table(run_directory, iteration, "pairs.parquet", tables.PAIRS)
        ledger = table(run_directory, iteration, "pair_ledger.parquet", tables.PAIR_LEDGER)
        paired = set(pairs.select("kind", "prompt_id").iter_rows())
        reasons = {
            (kind, prompt): reason
            for kind, prompt, reason in ledger.sort("pair", descending=True)
            .select("kind", "prompt_id", "reason")
            .iter_rows()
            if (kind, prompt) not in paired
        }
        expected = Counter((kind, "pair") for kind, _ in paired)
        expected.update((kind, reason) for (kind, _), reason in reasons.items())
        assert pairs.height > len(paired), "some prompts have several pairs"
        shown = page.data["iterations"][iteration - 1]
        assert {(row["kind"], row["outcome"]): row["prompts"] for row in shown["outcomes"]} == expected
        assert sum(count for (kind, _), count in expected.items() if kind == "actor") == shown["total"] == 40


def test_drop_charts_show_the_same_counts(page: Page, run_directory: Path) -> None:
    expected = {
        f"{row['outcome']}, iteration {item['iteration']} {row['kind']}": str(row["prompts"])
        for item in page.data["iterations"]
        for row in item["outcomes"]
    }
    assert page.marks("Prompts by outcome") == expected
    ledgers = {
        iteration: table(run_directory, iteration, "pair_ledger.parquet", tables.PAIR_LEDGER) for iteration in (1, 2, 3)
    }
    rows = Counter(
        f"{reason}, iteration {iteration} {kind}"
        for iteration, ledger in ledgers.items()
        for kind, reason in ledger.select("kind", "reason").iter_rows()
    )
    assert page.marks("Rows of the ledger") == {name: str(count) for name, count in rows.items()}


def test_eft_shows_what_was_kept_and_why_the_rest_was_not(page: Page) -> None:
    numbers = range(60)
    expected = Counter(made.EFT_REASONS.get(number % 7, "kept") for number in numbers)
    reasons = f"{expected['order']} order, {expected['no_match']} no_match, {expected['balance']} balance"
    text = f"60 judgements of ranked responses: {expected['kept']} kept to learn from, {60 - expected['kept']} dropped"
    assert f"{text} ({reasons})." in page.texts["p"]
    kept = [made.eft_score(number) for number in numbers if number % 7 not in made.EFT_REASONS]
    shares = {f"kept, score {score:g}": count / len(kept) for score, count in Counter(kept).items()}
    drawn = {name: share for name, share in page.marks("Scores of the judgements").items() if name.startswith("kept")}
    assert drawn == {name: as_percent(share) for name, share in shares.items()}


def test_created_prompts_show_their_fate(page: Page) -> None:
    expected = {"kept": made.CREATED, **Counter(made.NOT_CREATED)}
    found = {f"{name}, iteration {made.CREATING}": str(count) for name, count in expected.items()}
    assert page.marks("Creations by outcome") == found


def test_a_run_without_eft_and_created_prompts_has_no_such_sections(run_directory: Path) -> None:
    """Though its folder holds what a configuration with both left there."""
    source = Source(run_directory, 3)
    text, scores = kept.eft(source)
    assert (text, charts.eft_charts(scores)) == ("", [])
    assert charts.creation_charts(kept.creations(source)) == []
    assert source.files == {}
    assert source.models("summary.parquet", tables.SUMMARY, ["value"])["model"].min() == 0


def test_a_run_with_eft_and_created_prompts_must_have_their_files(tmp_path: Path) -> None:
    source = Source(tmp_path, 1, create_iterations=[1], eft=True)
    for reading in (kept.eft, kept.creations):
        with pytest.raises(StageError, match="no such file"):
            reading(source)


def test_score_histogram_shares(page: Page) -> None:
    """One iteration, by the rule itself."""
    given = [made.vote_score(2, n, s, v) for n in range(40) for s in range(4) for v in range(3)]
    counts = Counter(score for score in given if score is not None)
    expected = {f"iteration 2, score {score:g}": as_percent(count / counts.total()) for score, count in counts.items()}
    assert {name: share for name, share in page.marks("Scores").items() if name.startswith("iteration 2")} == expected


def as_percent(share: float) -> str:
    return f"{share:.1%}".replace(".0%", "%")
