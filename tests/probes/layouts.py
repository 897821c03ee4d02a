"""Run by tests, also under torchrun: trains three steps of a tiny model in several layouts, one after the other.

    torchrun --nproc-per-node 2 tests/probes/layouts.py MODEL OUTPUT '{"tp2": {"tensor_parallel": 2}, ...}'

A case's values are `megatron` settings, and optionally `objective` (dpo, sft). Writes a model directory per case, with
the steps' metrics beside it (`steps.json`); for the objective `resume` that is whether a checkpoint restores all.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

from stages.config import MegatronSettings
from stages.megatron import weights
from stages.megatron.checkpoint import Checkpoints
from stages.megatron.parallel import world
from stages.model_files.config import read_config
from stages.training.objectives import preference, sft
from tests.support.small_trainer import answers, new_trainer, pairs, resumes_exactly


def run(model: Path, output: Path, objective: str = "dpo", **values: object) -> None:
    facts = read_config(model)
    with world(MegatronSettings(**values), facts) as rank:
        new = partial(new_trainer, model, rank, **values)
        if objective == "resume":
            found = resumes_exactly(new, Checkpoints(output / "checkpoints", "plan", 1, 2, rank))
        else:
            trainer = new()
            batch, target = (pairs(), preference(0.1, 0.0)) if objective == "dpo" else (answers(), sft())
            found = [trainer.step(batch, target) for _ in range(3)]
            weights.save([chunk.module for chunk in trainer.chunks], output, facts, model, rank)
        if rank.is_main:
            (output / "steps.json").write_text(json.dumps(found))


if __name__ == "__main__":
    # Each case meets at a port of its own, as a world that ended leaves its keys at torchrun's; below those ports that
    # the system gives to connections.
    port = 12_000 + int(os.environ.get("MASTER_PORT", 0)) % 16_000
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    for case, settings in json.loads(sys.argv[3]).items():
        port = port + 1
        os.environ["MASTER_PORT"] = str(port)
        (Path(sys.argv[2]) / case).mkdir(parents=True, exist_ok=True)
        run(Path(sys.argv[1]), Path(sys.argv[2]) / case, **settings)
