"""Mean lengths and shares: what the user states, or an earlier run had. What nobody says is None."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from stages.config.whole import Config
from stages.contracts.errors import StageError

CHARACTERS_PER_TOKEN = 4
"""Assumed of templates, whose tokens are not counted."""

SECTIONS = {"response": "candidates", "judgement": "judge", "verdict": "meta_judge", "creation": "create"}
"""Whose sampling bounds which lengths."""


@dataclass(frozen=True)
class Means:
    """Mean lengths in tokens; prompts are what the model is given, template included."""

    prompt: float | None = None
    response: float | None = None
    judge_prompt: float | None = None
    judgement: float | None = None
    meta_judge_prompt: float | None = None
    verdict: float | None = None
    create_prompt: float | None = None
    creation: float | None = None
    shares: dict[str, float] = field(default_factory=dict)
    """By rule, the share that there is of what there could be: comparisons asked (`meta_judge`), pairs or examples
    trained on (`train`, `sft`)."""

    def share(self, rule: str) -> float:
        """1 where nothing is known: as much as there could be."""
        return self.shares.get(rule, 1.0)


def or_else(stated: Means, measured: Means) -> Means:
    """What is stated, and where nothing is, what was measured."""
    values = {one.name: getattr(stated, one.name) for one in dataclasses.fields(Means) if one.name != "shares"}
    kept = {name: value for name, value in values.items() if value is not None}
    return dataclasses.replace(measured, **kept, shares={**measured.shares, **stated.shares})


def check_means(means: Means, config: Config) -> None:
    """StageError for a mean that the configuration's own limit rules out."""
    for name, section in SECTIONS.items():
        mean, limit = getattr(means, name), getattr(config, section).sampling.max_tokens
        if mean is not None and mean > limit:
            raise StageError(
                f"a mean {name} of {mean:.4g} tokens is above {section}.sampling.max_tokens ({limit}): state a smaller "
                f"--{name}-tokens, or raise the limit"
            )


def completed(means: Means, config: Config) -> Means:
    """With the lengths that follow from others, a template counting `CHARACTERS_PER_TOKEN`:

    judge_prompt      = template + prompt + response
    meta_judge_prompt = template + prompt + response + 2 judgement
    create_prompt     = template + (pool_shots + created_shots) prompt
    """
    shots = config.create.pool_shots + config.create.created_shots
    both = (means.prompt, means.response)
    follow: dict[str, Callable[[], float | None]] = {
        "judge_prompt": lambda: _sum(_template(config, "judge"), *both),
        "meta_judge_prompt": lambda: _sum(_template(config, "meta_judge"), *both, means.judgement, means.judgement),
        "create_prompt": lambda: _sum(_template(config, "create"), *[means.prompt] * shots),
    }
    lacking: dict[str, Any] = {name: length() for name, length in follow.items() if getattr(means, name) is None}
    return dataclasses.replace(means, **lacking)


def _template(config: Config, section: str) -> float | None:
    """Tokens of a section's template; None where there is no such file, which a section that is off may lack."""
    path = getattr(config, section).template
    return len(path.read_text(encoding="utf-8")) / CHARACTERS_PER_TOKEN if path.is_file() else None


def _sum(*parts: float | None) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None
