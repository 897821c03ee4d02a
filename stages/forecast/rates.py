"""How fast a device is, and so how many hours of devices the tokens take. Pure.

A device is a GPU, or where there is none a job's (in training a rank's) share of the CPU.
"""

from dataclasses import dataclass, field

from stages.forecast.amounts import Amount

FORWARD = 3
"""Times as fast as training is a pass forward alone: 2 of 6 floating-point operations per weight and token."""
HOUR = 3600


@dataclass(frozen=True)
class Rates:
    """Tokens per second and device."""

    generate: float | None = None
    """Generated tokens; reading the prompts is part of the time."""
    train: float | None = None
    """Tokens of training rows, prompts included."""
    measured: dict[str, float] = field(default_factory=dict)
    """By rule, of an earlier run."""

    def of(self, rule: str) -> float | None:
        """The rate of a rule: what is stated, else its own, else for want of it that of its nearest kin."""
        if rule in ("train", "sft", "reference_logprobs"):
            return self._training(rule)
        kin = {"eft_judge": "judge", "judge": "eft_judge"}.get(rule, "candidates")
        return self.generate or self.measured.get(rule) or self.measured.get(kin)

    def hours(self, rule: str, tokens: Amount) -> Amount:
        """Tokens / rate / 3600."""
        rate = self.of(rule)
        return tokens.by(None if rate is None else 1 / (rate * HOUR))

    def _training(self, rule: str) -> float | None:
        kin = self.measured.get("sft" if rule == "sft" else "train") or self.measured.get("train")
        rate = self.train or kin or self.measured.get("sft")
        return rate and rate * (FORWARD if rule == "reference_logprobs" else 1)
