"""Three steps of training of a tiny model in a layout of ranks."""

import json
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
    """Write the trained model, and beside it the metrics of each step (`steps.json`).

    `values` are `megatron` settings; the objective is `dpo` or `sft`, or `resume`: then the file says whether a
    checkpoint restores all.
    """
    output.mkdir(parents=True, exist_ok=True)
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
