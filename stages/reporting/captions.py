"""How what the page shows was drawn, in the words of its captions: from the settings that the files carry."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from stages.algorithms.statistics import Bounds
from stages.reporting.run_files import Source

Settings = dict[str, Any]


class Drawn(NamedTuple):
    """Numbers and temperatures, such as `2 samples at temperature 1`, and the scale of the votes."""

    answers: str
    """Sampled answers to each held-out prompt."""
    test_votes: str
    """Votes on each answer of the judge's test set."""
    votes: str
    """Votes on each candidate of the iterations."""
    scale: Bounds


def how_drawn(source: Source) -> Drawn:
    """What the evaluations, the judgements and the votes of a run were made with.

    Raises StageError for a file that does not say.
    """
    evaluated = [source.settings(path) for path in source.of_models("evaluations.parquet").values()]
    iterations = range(1, source.iterations + 1)
    judged = [source.settings(path) for number in iterations for path in source.in_folder(number, "judgements")]
    scored = source.settings(source.of_iterations("votes.parquet")[1])
    return Drawn(
        answers=drawn("sample", ((made["samples"], made["sampling"]) for made in evaluated)),
        test_votes=drawn("vote", ((made["judge_votes"], made["judge"]["sampling"]) for made in evaluated)),
        votes=drawn("vote", ((made["votes"], made["sampling"]) for made in judged)),
        scale=Bounds(float(scored["low"]), float(scored["high"])),
    )


def drawn(noun: str, made: Iterable[tuple[int, Settings]]) -> str:
    """`2 samples at temperature 1` of numbers and sampling settings; where files differ, each value is named."""
    numbers, samplings = zip(*made, strict=True)
    counts, temperatures = sorted(set(numbers)), sorted({float(sampling["temperature"]) for sampling in samplings})
    return (
        f"{_listed(counts)} {noun}{'' if counts == [1] else 's'} "
        f"at temperature{'' if len(temperatures) == 1 else 's'} {_listed(temperatures)}"
    )


def _listed(values: list[Any]) -> str:
    return " and ".join(f"{value:g}" for value in values)
