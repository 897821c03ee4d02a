"""Loads and saves models of all families in a layout of ranks, and keeps their logits."""

import json
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.tensor_parallel import gather_from_tensor_model_parallel_region
from safetensors.torch import load_file, save_file

from stages.config import MegatronSettings
from stages.megatron import weights
from stages.megatron.cpu import cuda_or_cpu
from stages.megatron.model import build_model
from stages.megatron.parallel import world
from stages.model_files.config import read_config
from stages.model_files.families import Architecture

SHARD_BYTES = 60_000


def logits(model: Any, tokens: torch.Tensor, facts: Architecture) -> torch.Tensor | None:
    """[batch, s, vocabulary] on the last pipeline stage, elsewhere None."""
    rank, size = (
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_pipeline_model_parallel_world_size(),
    )
    with torch.no_grad(), cuda_or_cpu():
        if rank > 0:
            received = torch.empty(tokens.size(1), tokens.size(0), facts.hidden, dtype=model.config.params_dtype)
            torch.distributed.recv(received, src=parallel_state.get_pipeline_model_parallel_prev_rank())
            model.set_input_tensor(received)
        out = model.eval()(tokens, None, None)
        if rank < size - 1:
            torch.distributed.send(out.contiguous(), dst=parallel_state.get_pipeline_model_parallel_next_rank())
            return None
        return gather_from_tensor_model_parallel_region(out)[..., : facts.vocabulary].contiguous()


def run(models: Path, tensor: int, pipeline: int, output: Path) -> None:
    """Load, save and run every model, on each rank.

    `models` holds a Hugging Face directory for each family and a `tokens.safetensors`; `output` gets the saved model of
    each family with its logits. What must be equal is compared by the test.
    """
    tokens = load_file(models / "tokens.safetensors")["tokens"]
    layout = MegatronSettings(tensor_parallel=tensor, pipeline_parallel=pipeline)
    directories = sorted(path for path in models.iterdir() if path.is_dir())
    with world(layout, read_config(directories[0])) as rank:
        for directory in directories:
            facts, saved = read_config(directory), output / directory.name
            dtype = json.loads((directory / "config.json").read_text())["dtype"]
            chunks = build_model(facts, layout.model_copy(update={"dtype": dtype}), rank.device)
            weights.load(chunks, directory, facts)
            weights.save(
                chunks, saved, facts, directory, rank, shard_bytes=SHARD_BYTES if directory.name == "llama" else 4 << 30
            )
            found = logits(chunks[0], tokens, facts)
            if found is not None and parallel_state.get_tensor_model_parallel_rank() == 0:
                save_file({"logits": found}, output / f"{directory.name}.safetensors")
