"""Preference pairs and the log-probabilities of their reference as files."""

from pathlib import Path

from stages.contracts.artifacts import write
from stages.contracts.schema import frame
from stages.tables import PAIRS, REFERENCE_LOGPROBS


def save_pairs(
    path: Path, tokens: dict[str, tuple[list[int], list[int], list[int]]], kinds: dict[str, str] | None = None
) -> Path:
    """A table of pairs from their tokens by key: prompt, chosen, rejected."""
    rows = [
        {"pair_id": key, "kind": (kinds or {}).get(key, "actor"), "prompt_id": f"p-{key}", "prompt": [], "chosen": [],
         "rejected": [], "score_chosen": 4.0, "score_rejected": 1.0, "prompt_token_ids": prompt,
         "chosen_token_ids": chosen, "rejected_token_ids": rejected, "chosen_candidate_id": "c",
         "rejected_candidate_id": "r"}
        for key, (prompt, chosen, rejected) in tokens.items()
    ]  # fmt: skip
    write(frame(PAIRS, rows), path, PAIRS, {})
    return path


def save_logprobs(path: Path, logprobs: dict[str, tuple[float, float]]) -> Path:
    """Log-probabilities of the reference, over two chosen and three rejected tokens."""
    rows = [
        {"pair_id": key, "chosen_logprob": c, "rejected_logprob": r, "chosen_tokens": 2, "rejected_tokens": 3}
        for key, (c, r) in logprobs.items()
    ]
    write(frame(REFERENCE_LOGPROBS, rows), path, REFERENCE_LOGPROBS, {})
    return path
