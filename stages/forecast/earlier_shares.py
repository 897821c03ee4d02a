"""Of what could have been asked or trained on, how much an earlier run did; from the numbers of rows alone."""

from math import comb
from pathlib import Path
from typing import Any

from stages.inspection.parquet import described, files
from stages.inspection.run_folder import RunFolder


def earlier_shares(run: RunFolder) -> dict[str, float]:
    """Shares by rule, see `Means.shares`; none for what the run has not."""
    iterations = [run.folder(number) for number in run.iterations]
    compared = [folder for folder in iterations if files(folder / "meta_judge_prompts")]
    paired = [folder for folder in iterations if files(folder / "pairs.parquet")]
    eft = [run.folder(0)] if files(run.folder(0) / "examples.parquet") else []
    parts = {
        "meta_judge": (_rows(compared, "meta_judge_prompts"), sum(map(_comparisons, compared))),
        "train": (_rows(paired, "pairs.parquet"), sum(map(_pairs, paired))),
        "sft": (_rows(eft, "examples.parquet"), _rows(eft, "judgements")),
    }
    return {rule: min(1.0, part / whole) for rule, (part, whole) in parts.items() if whole}


def _rows(folders: list[Path], name: str) -> int:
    return sum(described(path).rows for folder in folders for path in files(folder / name))


def _settings(folder: Path, name: str) -> dict[str, Any]:
    found = files(folder / name)
    return dict(described(found[0]).provenance.get("settings", {})) if found else {}


def _comparisons(folder: Path) -> float:
    """Prompts of an iteration x both orders of each two votes, or `max_comparisons`."""
    judged = _rows([folder], "scores.parquet")
    pairs = comb(round(_rows([folder], "votes.parquet") / judged), 2) if judged else 0
    limit = _settings(folder, "verdicts").get("max_comparisons")
    return 2 * min(pairs, limit or pairs) * _rows([folder], "prompts.parquet")


def _pairs(folder: Path) -> float:
    """Actor pairs that all prompts of an iteration could have given, with as many judge pairs as their share asks."""
    prompts = _rows([folder], "prompts.parquet")
    settings = _settings(folder, "pairs.parquet")
    each = comb(round(_rows([folder], "candidates") / prompts), 2) if prompts else 0
    each = min(each, settings.get("max_pairs_per_prompt") or each) if settings.get("per_prompt") == "all" else 1
    share = settings.get("judge_share") or 0.0
    return prompts * each / (1 - share) if share < 1 else prompts
