"""What a run is warned of, with the advice that the papers have for it: numbers of the iterations in, words out."""

from typing import NamedTuple

import polars as pl

from stages.algorithms.prompt_parts import Row
from stages.algorithms.statistics import Bounds


class Rule(NamedTuple):
    """A number that may lie from `low` to `high`; `finding` says it where it does not."""

    low: float
    high: float
    finding: str
    advice: str


class CollapseWarning(NamedTuple):
    """Where it was found (`iteration 2`), what, and what to do."""

    place: str
    finding: str
    advice: str


FEWER_JUDGE_PAIRS = (
    "The judge inflates, as in Meta-Rewarding after two iterations with judge pairs (mean score from 4.1 to over 4.7), "
    "which trained the actor alone from then on. Go back to the model before, and train it with a smaller "
    "pairs.judge_share (at most 0.15 in NeMo-Aligner) or pairs.max_judge_class_share (0.4), or without judge pairs "
    "(meta_judge.enabled: false)."
)
RULES = {
    "top score": Rule(0, 0.5, "{:.0%} of the votes are in the top tenth of the scale", FEWER_JUDGE_PAIRS),
    "mean score": Rule(0, 0.9, "the mean score is at {:.0%} of the scale", FEWER_JUDGE_PAIRS),
    "ties": Rule(
        0,
        0.5,
        "{:.0%} of the prompts have equal scores only",
        "Scores pile up at one value, as in Self-Rewarding without EFT, which left it 541 pairs. Teach the judge the "
        "scale first (eft.enabled), or take more votes (judge.votes).",
    ),
    "higher score wins": Rule(
        0,
        0.9,
        "the judgement with the higher score wins {:.0%} of the verdicts",
        "The meta-judge repeats the scores, as in Meta-Rewarding's second iteration (98 %, after 63 %): its verdicts "
        "teach the judge to score high. Stop comparing judgements (meta_judge.enabled: false).",
    ),
    "first slot wins": Rule(
        0.35,
        0.65,
        "the judgement shown first wins {:.0%} of the verdicts",
        "The meta-judge looks at places, as in Meta-Rewarding's second iteration (68 %, after 44 %). Weights make up "
        "for a part; train on fewer judge pairs (pairs.judge_share), or on none (meta_judge.enabled: false).",
    ),
    "length": Rule(
        0,
        1.5,
        "held-out responses are {:.1f} times as long as model 0's",
        "Length pays, as in Self-Rewarding (2.3 times within two iterations). Raise pairs.length_control: "
        "Meta-Rewarding took 0.32 to 0.4 and stayed within 1.1 times.",
    ),
    "score gap": Rule(
        1 / 3,
        float("inf"),
        "chosen and rejected differ by {:.0%} of the first iteration's score gap",
        "Pairs become alike; in Self-Rewarding the gap fell to a ninth over four iterations (Temporal "
        "Self-Rewarding). Ask for wider pairs (pairs.min_margin) or more different candidates "
        "(candidates.sampling.temperature), or stop here.",
    ),
    "judge accuracy": Rule(
        -1,
        0.02,
        "judge accuracy fell by at least {:.1%}",
        "The judge forgets: agreement with people fell in Meta-Rewarding, too, after its second iteration. Go back to "
        "the model before, or let another model judge (judge.model).",
    ),
}
"""By sign. The papers tell no limits: these lie between their sound and their collapsed runs, or are our guesses."""


def collapse_warnings(
    signs: pl.DataFrame, trends: pl.DataFrame, summary: pl.DataFrame, gained: list[Row], scale: Bounds
) -> list[CollapseWarning]:
    """What breaks its rule, in order of the iterations and models.

    `signs` are rows of `collapse_signs`, `trends` of `run_trends`, `gained` of `gains`; `summary` has the rows of table
    `summary` of all models, with a column `model`; `scale` is the judge's.
    """
    on_scale = pl.when(sign="mean score").then((pl.col("value") - scale.low) / (scale.high - scale.low))
    of_first = pl.col("value") / pl.col("value").first()
    gaps = trends.filter(trend="score_gap").sort("iteration").with_columns(of_first, sign=pl.lit("score gap"))
    lengths = summary.filter(pl.col("model") >= 0, metric="tokens").sort("model")
    readings = pl.concat(
        [
            _placed(signs.with_columns(value=on_scale.otherwise("value")), "iteration"),
            _placed(gaps, "iteration"),
            _placed(lengths.with_columns(of_first, sign=pl.lit("length")), "model"),
            _placed(_lost_accuracy(gained), "model"),
        ]
    )
    return [
        _warning(*row) for row in readings.sort("number", maintain_order=True).drop("number").rows() if _broken(*row)
    ]


def _placed(rows: pl.DataFrame, kind: str) -> pl.DataFrame:
    """`number` and `place` (`iteration 2`, `model 3`), `sign`, `value`."""
    place = pl.format(f"{kind} {{}}", kind)
    return rows.drop_nans("value").select(pl.col(kind).alias("number"), place.alias("place"), "sign", "value")


def _lost_accuracy(gained: list[Row]) -> pl.DataFrame:
    """How much of its accuracy each judge lost at least: the end of the gain's interval."""
    rows = [(row["model"], -row["high"]) for row in gained if row["metric"] == "judge_accuracy" and row["high"]]
    frame = pl.DataFrame(rows, schema={"model": pl.Int64, "value": pl.Float64}, orient="row")
    return frame.with_columns(sign=pl.lit("judge accuracy"))


def _broken(place: str, sign: str, value: float) -> bool:
    return sign in RULES and not RULES[sign].low <= value <= RULES[sign].high


def _warning(place: str, sign: str, value: float) -> CollapseWarning:
    return CollapseWarning(place, RULES[sign].finding.format(value), RULES[sign].advice)
