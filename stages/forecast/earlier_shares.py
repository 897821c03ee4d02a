"""Of what could have been asked or trained on, how much an earlier run did; from the numbers of rows alone."""

from math import comb
from pathlib import Path
from typing import Any

from stages.contracts.errors import StageError
from stages.inspection.parquet import described, files
from stages.inspection.run_folder import RunFolder


def earlier_shares(run: RunFolder) -> dict[str, float]:
    """Shares by rule, see `Means.shares`; none for what the run has not."""
    iterations = [run.folder(number) for number in run.iterations]
    compared = [folder for folder in iterations if files(folder / "meta_judge_prompts")]
    paired = [folder for folder in iterations if files(folder / "pairs.parquet")]
    eft = [run.folder(0)] if files(run.folder(0) / "examples.parquet") else []
    parts = {
        "meta_judge": (_rows(run, compared, "meta_judge_prompts"), sum(_comparisons(run, one) for one in compared)),
        "train": (_rows(run, paired, "pairs.parquet"), sum(_pairs(run, one) for one in paired)),
        "sft": (_rows(run, eft, "examples.parquet"), _rows(run, eft, "judgements")),
    }
    return {rule: min(1.0, part / whole) for rule, (part, whole) in parts.items() if whole}


def _rows(run: RunFolder, folders: list[Path], name: str) -> int:
    return sum(_rows_of(run, path) for folder in folders for path in files(folder / name))


def _rows_of(run: RunFolder, path: Path) -> int:
    """As it says of itself; none where it cannot be read, which the run remembers."""
    try:
        return described(path).rows
    except StageError as error:
        run.problems[str(error)] = None
        return 0


def _settings(run: RunFolder, folder: Path, name: str) -> dict[str, Any]:
    found = files(folder / name)
    return dict(run.provenance(found[0]).get("settings", {})) if found else {}


def _comparisons(run: RunFolder, folder: Path) -> float:
    """Prompts of an iteration x both orders of each two votes, or `max_comparisons`."""
    judged = _rows(run, [folder], "scores.parquet")
    pairs = comb(round(_rows(run, [folder], "votes.parquet") / judged), 2) if judged else 0
    limit = _settings(run, folder, "verdicts").get("max_comparisons")
    return 2 * min(pairs, limit or pairs) * _rows(run, [folder], "prompts.parquet")


def _pairs(run: RunFolder, folder: Path) -> float:
    """Actor pairs that all prompts of an iteration could have given, with as many judge pairs as their share asks."""
    prompts = _rows(run, [folder], "prompts.parquet")
    settings = _settings(run, folder, "pairs.parquet")
    each = comb(round(_rows(run, [folder], "candidates") / prompts), 2) if prompts else 0
    each = min(each, settings.get("max_pairs_per_prompt") or each) if settings.get("per_prompt") == "all" else 1
    share = settings.get("judge_share") or 0.0
    return prompts * each / (1 - share) if share < 1 else prompts
