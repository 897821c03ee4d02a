"""A run to inspect, with what the made-up run lacks: training that left a pair out, references, checks, models."""

from pathlib import Path

import pytest

from stages import tables
from stages.contracts.artifacts import read, write
from stages.contracts.schema import frame
from tests.support import synthetic_rules as made
from tests.support import synthetic_run

LEFT_OUT = "actor-1-{}-0"
"""The pair that training left out, by its prompt."""
HOSTILE = "[red]bold[/red] \x1b[31m\x07 \u202e :smile:"


@pytest.fixture(scope="session")
def inspected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = synthetic_run.build(tmp_path_factory.mktemp("inspected") / "run")
    pairs = read(run / "iter-1/pairs.parquet", tables.PAIRS)["pair_id"].to_list()
    logprobs = {"chosen_logprob": -1.5, "rejected_logprob": -2.5, "chosen_tokens": 3, "rejected_tokens": 4}
    reference = frame(tables.REFERENCE_LOGPROBS, [{"pair_id": pair, **logprobs} for pair in pairs])
    write(reference, run / "iter-1/reference_logprobs.parquet", tables.REFERENCE_LOGPROBS, {})
    prompt = made.prompt_key(1, 2)
    left_out = {"pair_id": LEFT_OUT.format(prompt), "kind": "actor", "reason": "overlong", "detail": f"400 {HOSTILE}"}
    write(frame(tables.TRAIN_LEDGER, [left_out]), run / "iter-1/train/ledger.parquet", tables.TRAIN_LEDGER, {})
    check = {"prompt_id": prompt, "candidate_id": f"{prompt}-1-0", "check": 0, "instruction": "length", "passed": False}
    write(frame(tables.VERIFICATIONS, [check]), run / "iter-1/verifications/0.parquet", tables.VERIFICATIONS, {})
    for model in ("base", "0", "1"):
        (run / "models" / model).mkdir(parents=True)
        (run / "models" / model / "manifest.json").write_text(f'{{"digest": "digest-of-{model}"}}')
    return run
