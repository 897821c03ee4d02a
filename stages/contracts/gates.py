"""Gates: limits on a share of rows, beyond which going on would waste the time of every later stage."""

import sys

from stages.contracts.errors import StageError

WARN_FROM = 0.75
"""A share beyond this part of its limit is warned of, before it stops a run."""


def gate(count: int, total: int, limit: float, what: str, remedy: str) -> None:
    """StageError if `count` of `total` is a larger share than `limit` (a setting's name and value are in `what`); a
    warning on stderr where it is near. A limit of 1 switches the gate off."""
    message = f"{count} of {total} {what} ({count / max(total, 1):.1%}, limit {limit:.1%}): {remedy}"
    if count > limit * total:
        raise StageError(message)
    if limit < 1 and count > WARN_FROM * limit * total:
        print(f"warning: {message}", file=sys.stderr)
