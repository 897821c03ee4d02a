"""True quality of an answer in the tiny world. Used to measure, and by the control runs; never by the loop."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import world

SCALE = (0, 5)
"""Least and greatest quality."""


def quality(messages: list[dict[str, str]], response: str) -> float:
    """Number of checks (0 to 5) that the answer to the conversation's last turn passes."""
    return float(sum(world.checks(world.parse_task(messages[-1]["content"]), response).values()))
