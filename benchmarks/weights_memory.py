"""Peak memory of loading and saving a checkpoint, per rank, beside the rank's own shard.

    python benchmarks/weights_memory.py

A random bfloat16 Llama of the given size is written to a temporary directory; one rank, then two tensor-parallel ones
load and save it. Memory is Linux's peak resident set (`VmHWM`, reset before each phase), so that pages of mapped files
count too; what is above the resident set before loading (when parameters are not yet touched) plus the shard, or above
the resident set before saving, is extra. Results go to benchmarks/results.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from stages.config import MegatronSettings
from stages.megatron import weights
from stages.megatron.model import build_model
from stages.megatron.parallel import world
from stages.model_files.config import read_config

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
HIDDEN, FEED_FORWARD, VOCABULARY = 1024, 2816, 16_000


def main() -> None:
    """Measure each layout in processes of its own, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the checkpoint")
    parser.add_argument("--shard-mib", type=int, default=256, help="size of the files that are written")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="tensor-parallel ranks to measure")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/weights_memory.json")
    parser.add_argument("--measure", type=Path, help="(internal) checkpoint that this rank loads and saves")
    options = parser.parse_args()
    if options.measure:
        measure(options.measure, options.shard_mib * MIB)
        return
    with tempfile.TemporaryDirectory() as folder:
        size = write_checkpoint(Path(folder) / "model", options.megabytes * 1_000_000)
        layouts = [launch(Path(folder) / "model", ranks, options.shard_mib) for ranks in options.ranks]
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{os.cpu_count()} CPUs, Python {platform.python_version()}, torch {torch.__version__}",
        "checkpoint_mib": round(size / MIB),
        "shard_mib": options.shard_mib,
        "layouts": layouts,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


def write_checkpoint(directory: Path, size: int) -> int:
    """A random Llama of about `size` bytes, a file for each layer; returns its bytes."""
    directory.mkdir()
    shapes = {f"self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"}
    shapes |= {f"mlp.{name}_proj.weight": (FEED_FORWARD, HIDDEN) for name in ("gate", "up")}
    shapes |= {"mlp.down_proj.weight": (HIDDEN, FEED_FORWARD)}
    shapes |= {f"{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    outer = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN)}
    per_layer = 2 * sum(torch.Size(shape).numel() for shape in shapes.values())
    layers = max(1, round((size - 4 * VOCABULARY * HIDDEN) / per_layer))
    parts = [outer | {"model.norm.weight": (HIDDEN,)}]
    parts += [{f"model.layers.{layer}.{name}": shape for name, shape in shapes.items()} for layer in range(layers)]
    weight_map = {}
    for number, part in enumerate(parts):
        tensors = {name: torch.randn(shape, dtype=torch.bfloat16) * 0.02 for name, shape in part.items()}
        save_file(tensors, directory / f"part-{number}.safetensors")
        weight_map |= dict.fromkeys(tensors, f"part-{number}.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": HIDDEN,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096,
    }
    (directory / "config.json").write_text(json.dumps(config))
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))


def launch(model: Path, ranks: int, shard_mib: int) -> dict[str, Any]:
    """Run the measurement on tensor-parallel ranks and collect what they report."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += [str(Path(__file__)), "--measure", str(model), "--shard-mib", str(shard_mib)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, env=environment, check=True, cwd=ROOT)
    reports = [json.loads((model.parent / f"rank-{rank}.json").read_text()) for rank in range(ranks)]
    return {
        "tensor_parallel": ranks,
        "largest_tensor_mib": round(VOCABULARY * HIDDEN * 2 / MIB, 1),
        "ranks": reports,
    }


def measure(directory: Path, shard_bytes: int) -> None:
    """One rank: load and save, and write peaks and times beside the checkpoint."""
    size = int(os.environ["WORLD_SIZE"])
    facts = read_config(directory)
    settings = MegatronSettings(tensor_parallel=size, dtype="bfloat16")
    with world(settings, facts) as rank:
        chunks = build_model(facts, settings, rank.device)
        shard = sum(parameter.nbytes for parameter in chunks[0].parameters())
        torch.distributed.barrier()
        load_peak, load_seconds = peak(lambda: weights.load(chunks, directory, facts))
        torch.distributed.barrier()
        saved = directory.parent / f"saved-{size}"
        save_peak, save_seconds = peak(lambda: weights.save(chunks, saved, facts, directory, rank, shard_bytes))
        report = {
            "shard_mib": round(shard / MIB, 1),
            "largest_slice_mib": round(VOCABULARY * HIDDEN * 2 / size / MIB, 1),
            "load_extra_mib": round((load_peak - shard) / MIB, 1),
            "save_extra_mib": round(save_peak / MIB, 1),
            "load_seconds": round(load_seconds, 2),
            "save_seconds": round(save_seconds, 2),
        }
        (directory.parent / f"rank-{rank.rank}.json").write_text(json.dumps(report))


def peak(action: Callable[[], None]) -> tuple[int, float]:
    """Bytes by which an action's peak resident set exceeds the resident set before it, and its seconds."""
    Path("/proc/self/clear_refs").write_text("5")
    before, started = _status("VmRSS"), time.perf_counter()
    action()
    return _status("VmHWM") - before, time.perf_counter() - started


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main()
