"""Checks of responses: the instructions of IFEval, and what is expected of any answer without being asked for."""

from stages.algorithms.checks import ifeval, implicit
from stages.algorithms.checks.registry import CHECKS, Check, arguments_of, follows

__all__ = ["CHECKS", "Check", "arguments_of", "follows", "ifeval", "implicit"]
