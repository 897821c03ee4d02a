"""Log-probabilities of the pairs under the reference policy, once per iteration.

Reads:  the iteration's pairs and the reference model.
Does:   one forward pass over every pair that can be trained on, with the very code that trains on them; every rank runs
        this same program.
Writes: one row per pair (REFERENCE_LOGPROBS), with the digests of the model and of the pairs.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from stages import tables
from stages.config import ChatSection, MegatronSettings, ReferenceSection
from stages.contracts.artifacts import write
from stages.contracts.cli import run
from stages.contracts.provenance import describe
from stages.contracts.schema import frame
from stages.megatron import weights
from stages.megatron.launch import on_ranks
from stages.megatron.loop import run_batch
from stages.megatron.model import build_model
from stages.megatron.parallel import Rank, world
from stages.model_files.config import read_config
from stages.model_files.manifest import model_digest
from stages.training.batches import Example, MicroBatch
from stages.training.examples import Screened, preference_examples, untrained
from stages.training.objectives import Objective


class Args(ReferenceSection):
    """Command line of the stage."""

    megatron: MegatronSettings = Field(MegatronSettings(), description="Ranks, layout and precision.")
    chat: ChatSection = Field(ChatSection(), description="How conversations are rendered.")
    model: Path = Field(description="Reference model.")
    pairs: Path = Field(description="Preference pairs.")
    output: Path = Field(description="Where to write the log-probabilities.")


def logprobs(
    model: Sequence[Any], examples: list[Example], settings: MegatronSettings, rank: Rank
) -> list[dict[str, Any]]:
    """REFERENCE_LOGPROBS rows of this replica's share of the pairs (on the last pipeline stage; elsewhere none)."""
    rows: list[dict[str, Any]] = []

    def collect(row_sums: torch.Tensor, batch: MicroBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        lengths = batch.row_lengths.view(-1, 2).long().tolist()
        for key, sums, counts, weight in zip(
            batch.keys, row_sums.view(-1, 2).tolist(), lengths, batch.example_weights.tolist(), strict=True
        ):
            if weight:
                rows.append(dict(zip(tables.REFERENCE_LOGPROBS.columns, (key, *sums, *counts), strict=True)))
        return row_sums.sum(), {}

    if not examples:
        return rows
    with torch.no_grad():
        run_batch(model, examples, Objective(len, collect), settings, rank, forward_only=True)
    return rows


@on_ranks()
def main(args: Args) -> None:
    """Compute and write; every rank runs this."""
    facts = read_config(args.model)
    with world(args.megatron, facts) as rank:
        reference = rank.from_main(lambda: model_digest(args.model))
        examples, left_out = preference_examples(
            args.pairs, None, args.megatron.max_sequence_length, thoughts=untrained(args.model, args.chat)
        )
        model = build_model(facts, args.megatron, rank.device)
        weights.load(model, args.model, facts)
        mine = logprobs(model, examples, args.megatron, rank)
        rows = [row for part in rank.from_all(mine if rank.reports else []) for row in part]
        if rank.is_main:
            origin = describe("reference_logprobs", args, [args.pairs], model=reference)
            write(frame(tables.REFERENCE_LOGPROBS, rows), args.output, tables.REFERENCE_LOGPROBS, origin)
            print(f"{args.pairs}: {Screened(examples, left_out)}", file=sys.stderr)


if __name__ == "__main__":
    run(Args, main)
