"""A number that is not known exactly: what is expected, and what it cannot exceed. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Amount:
    """Either number is None where nothing says it; what is made of an unknown number is unknown."""

    expected: float | None
    most: float | None

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(_sum(self.expected, other.expected), _sum(self.most, other.most))

    def times(self, expected: float | None, most: float | None) -> "Amount":
        """So many times this: a mean for what is expected, a limit for the most."""
        return Amount(_product(self.expected, expected), _product(self.most, most))

    def by(self, factor: float | None) -> "Amount":
        """So many times this, whichever number is meant."""
        return self.times(factor, factor)


def exactly(number: float | None) -> Amount:
    """A number that is known, or that nobody knows."""
    return Amount(number, number)


NONE = exactly(0)


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b


def _product(a: float | None, b: float | None) -> float | None:
    """Nothing is nothing, however often."""
    if a == 0 or b == 0:
        return 0
    return None if a is None or b is None else a * b
