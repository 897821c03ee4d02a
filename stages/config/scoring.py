"""Settings of how generated text becomes scores, ratings and pairs."""

import math
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from stages.config.base import Gate, Schedule, Section, Share, check_pattern


class VerifySection(Section):
    """Prompts with checkable instructions, scored by checks instead of by the judge, or by both (`score.combine`)."""

    enabled: bool = Field(False, description="Score the responses to such prompts by the share of checks passed.")
    judge: bool = Field(
        False, description="Let the model judge them as well: their judgements may become judge pairs, and scores."
    )

    @model_validator(mode="after")
    def _judged_besides(self) -> "VerifySection":
        if self.judge and not self.enabled:
            raise ValueError("verify.judge needs verify.enabled: otherwise the judge scores every prompt anyway")
        return self


class ScoreSection(Section):
    """Judgements parsed and aggregated."""

    pattern: str = Field(
        "lenient",
        description="How a score is read: `lenient`, in the forms in which models state it (docs/verdicts.md); "
        "`strict`, on a line of its own, `Score: 4`; or an own regular expression in which `{{ score }}` stands for "
        "the number, and of which the last match counts.",
    )
    low: float = Field(0.0, description="Lowest score; anything below is `out_of_range`, never clamped.")
    high: float = Field(5.0, description="Highest score.")
    aggregate: Literal["mean", "median", "expected"] = Field(
        "mean",
        description="Score of a candidate from its valid votes; `expected` weighs votes by their likelihood per token.",
    )
    combine: Literal["checks", "judge", "gate", "sum"] = Field(
        "checks",
        description="Score of a candidate that has both checks and votes (`verify.judge`): `checks`, the share passed; "
        "`judge`, the votes; `gate`, the votes among those that pass all checks, above all that do not; `sum`, both, "
        "weighted by `judge_weight`. On the scale from `low` to `high`.",
    )
    judge_weight: Share = Field(0.5, description="Weight of the votes in `combine: sum`; the checks have the rest.")
    min_votes: int = Field(1, ge=1, description="Valid votes that a candidate needs to have a score.")
    exclude_shortened: bool = Field(
        False, description="Give no score to responses that the judge saw only shortened (they were too long for it)."
    )
    min_parse_rate: Gate[Share] = Field(0.5, description="The stage fails when fewer votes than this parse.")
    max_top_share: Gate[Share] = Field(
        0.95, description="The stage fails when more of the valid votes than this lie in the top tenth of the range."
    )
    max_flat_share: Gate[Share] = Field(
        0.9, description="The stage fails when in more of the prompts than this all candidates have the same score."
    )

    @model_validator(mode="after")
    def _range(self) -> "ScoreSection":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be below high ({self.high})")
        if self.judge_weight != 0.5 and self.combine != "sum":
            raise ValueError(f"score.judge_weight is for score.combine `sum`, not for `{self.combine}`")
        check_pattern(self.pattern, "{{ score }}", ("strict", "lenient"))
        return self


class RateSection(Section):
    """Verdicts parsed, battles weighted, judgements rated."""

    pattern: str = Field(
        "lenient",
        description="How a winner is read: `lenient`, in the forms in which models name it (docs/verdicts.md), or an "
        "own regular expression in which `{{ winner }}` stands for A or B, and of which the last match counts.",
    )
    position_weights: Literal["paper", "none", "agreement"] = Field(
        "paper",
        description="`paper`: weigh a win by the other slot's share of wins; `none`: weigh all alike; "
        "`agreement`: a win needs both orders, otherwise a tie.",
    )
    prior: float = Field(
        0.01, gt=0, description="Weight of a virtual tie between any two judgements: keeps Elo finite."
    )

    @model_validator(mode="after")
    def _pattern(self) -> "RateSection":
        check_pattern(self.pattern, "{{ winner }}", ("lenient",))
        return self


class PairsSection(Section):
    """Which pairs are trained on."""

    length_control: Schedule[Share] = Field(
        0.0,
        description="rho in [0, 1]: width of the score windows from which the shortest chosen and the longest "
        "rejected response are taken (schedule).",
    )
    min_margin: float = Field(0.0, ge=0, description="Actor pairs need a larger score difference than this.")
    min_chosen_score: float | None = Field(
        None,
        description="Responses with a lower score are never chosen ones of actor pairs, with the reason `low_score`: "
        "better than the others of its prompt may still be bad.",
    )
    per_prompt: Literal["best_worst", "all"] = Field(
        "best_worst",
        description="Actor pairs of a prompt: its best and worst response, or `all` pairs over `min_margin`, widest "
        "margin first.",
    )
    max_pairs_per_prompt: int | None = Field(None, ge=1, description="At most so many of `all`; unset takes all.")
    max_length_ratio: float | None = Field(
        None,
        gt=0,
        description="Pairs whose chosen response has more than so many times the rejected one's tokens drop.",
    )
    min_length_ratio: float | None = Field(
        None,
        gt=0,
        description="Pairs whose chosen response has fewer than so many times the rejected one's tokens drop: beside "
        "`max_length_ratio` it keeps length out of what is learnt.",
    )
    truncated: Literal["drop", "rejected"] = Field(
        "drop",
        description="Responses that were cut at their limit: `drop`, they take no part; `rejected`, they may be the "
        "rejected one of a pair, and never the chosen one.",
    )
    repeat: bool = Field(False, description="Whether a pair of an earlier iteration may be trained on again.")
    judge_share: Schedule[Share] = Field(0.0, description="Share of judge pairs among the training pairs (schedule).")
    max_pairs: int | None = Field(None, ge=1, description="Training pairs per iteration; unset takes all.")
    max_chosen_tokens: Schedule[PositiveInt] | None = Field(
        None, description="Longer chosen responses are dropped, with the reason `overlong` (schedule)."
    )
    max_chosen_judgement_tokens: Schedule[PositiveInt] | None = Field(
        None, description="The same for chosen judgements (schedule)."
    )
    same_score_judgements: bool = Field(
        True, description="Whether two judgements with the same score may form a judge pair."
    )
    max_judge_class_share: Share = Field(
        1.0, description="Largest share of the judge pairs whose chosen judgements give the same whole score."
    )

    @model_validator(mode="after")
    def _all_pairs(self) -> "PairsSection":
        rho = self.length_control if isinstance(self.length_control, list) else [self.length_control]
        if self.per_prompt == "all" and any(rho):
            raise ValueError("length_control chooses one pair per prompt: use it with per_prompt `best_worst`")
        if (self.min_length_ratio or 0) > (self.max_length_ratio or math.inf):
            raise ValueError(
                f"pairs.min_length_ratio ({self.min_length_ratio}) is above max_length_ratio ({self.max_length_ratio})"
            )
        if self.per_prompt == "best_worst" and self.max_pairs_per_prompt is not None:
            raise ValueError("max_pairs_per_prompt belongs to per_prompt `all`")
        return self
