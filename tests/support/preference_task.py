"""A small preference training: its pairs, their reference, its arguments and its reports."""

import numpy as np
import polars as pl

from stages import reference_logprobs, tables, train
from stages.contracts.artifacts import read, write
from stages.contracts.schema import frame
from tests.support.records import turn

LENGTH = 60


def save_preferences(path):
    """Two pairs for each of 12 prompts; every fourth is a judge pair, one is too long, one has equal members."""
    rng, rows = np.random.default_rng(0), []
    for number in range(24):
        prompt, chosen, rejected = (rng.integers(5, 300, size).tolist() for size in rng.integers(3, 20, 3))
        kind = "judge" if number % 4 == 0 else "actor"
        score = None if kind == "judge" else 2.0 + number / 10
        rows.append(
            {"pair_id": f"{number:02d}", "kind": kind, "prompt_id": f"prompt-{number // 2}",
             "prompt": [turn("user", f"Q{number}")], "chosen": [turn("assistant", f"C{number}")],
             "rejected": [turn("assistant", f"R{number}")], "score_chosen": score, "score_rejected": score and 1.0,
             "prompt_token_ids": prompt, "chosen_token_ids": list(range(5, 205)) if number == 5 else chosen,
             "rejected_token_ids": chosen if number == 3 else rejected, "chosen_candidate_id": "c",
             "rejected_candidate_id": "r"}
        )  # fmt: skip
    write(frame(tables.PAIRS, rows), path, tables.PAIRS, {})
    return path


def logprobs(model, pairs, folder):
    output = folder / "reference.parquet"
    megatron = {"max_sequence_length": LENGTH}
    reference_logprobs.main(reference_logprobs.Args(model=model, pairs=pairs, output=output, megatron=megatron))
    return output


def arguments(data, folder, **settings):
    files = {"output": folder / "models/1/manifest.json", "metrics": folder / "train/metrics.parquet"}
    fast = {"optimizer": {"learning_rate": 1e-3, "warmup_steps": 1}, "batch_size": 4, "loggers": []}
    return train.Args(**data, **files, **{"megatron": {"max_sequence_length": LENGTH}, **fast, **settings})


def trained(data, folder, **settings):
    """The reports of a training."""
    train.main(arguments(data, folder, **settings))
    return reports(folder)


def reports(folder):
    kinds = {"metrics": tables.TRAIN_METRICS, "speed": tables.TRAIN_SPEED, "ledger": tables.TRAIN_LEDGER}
    kinds["samples"] = tables.VALIDATION_SAMPLES
    return {name: read(folder / f"train/{name}.parquet", table) for name, table in kinds.items()}


def curve(reports, metric):
    """Values of a metric by step."""
    rows = reports["metrics"].filter(pl.col("metric") == metric).sort("step")
    return dict(zip(rows["step"], rows["value"], strict=True))
