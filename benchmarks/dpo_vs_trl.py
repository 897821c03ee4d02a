"""DPO training against TRL's `DPOTrainer`: same model, pairs, tokens, loss, optimizer, precision and threads.

    .venv/bin/python -m benchmarks.dpo_vs_trl            # ours against TRL at its fastest settings
    .venv/bin/python -m benchmarks.dpo_vs_trl --ablate   # ours with one technique switched off at a time
    .venv/bin/python -m benchmarks.dpo_vs_trl --sweep    # TRL's micro-batch sizes: which is its fastest
    .venv/bin/python -m benchmarks.dpo_vs_trl --model results/smollm2-inputs/model [--dtype bfloat16]   # a real one
    .venv/bin/python -m benchmarks.dpo_vs_trl --device cuda [--ablate | --sweep | --check]

A Llama with random weights (`benchmarks.dpo_sides.LOADS`) trains on made-up pairs of three length mixes: on the CPU a
small one in fp32, on a GPU one of the shape of Llama 3.2 1B in bf16 with fp32 master weights. `--model` takes a
Llama's Hugging Face directory instead, and pairs of the same lengths whose text are this repository's pages. Every
side is a process of its own, so that its peak memory is its own. The sides take turns, one round each, while the
others sleep; the first round of each is a warm-up. In every round all must report the same mean loss: the first
step's is ln 2, and each later one's shows that the updates before it were the same. The reference log-probabilities
are worked out before. `--check` compares our bf16 losses on the GPU with our fp32 ones on the CPU, on the small
model.

`tflops` counts the arithmetic of every row of every pair by itself (`stages.megatron.speed`), as TRL computes it;
with a GPU, `mfu` divides it by what a large matrix product reaches there. Shared prompts are work that is not done: for
the use of the hardware alone see "prompts twice" of `--ablate`.

Ratios are of a round's wall times; beside them is the ratio of CPU times, which other work on the machine sways less.
TRL runs with what makes it fastest here: its fused attention, no recomputation of activations (its default), short
pairs first within a step, which leaves it little padding, and the best of the micro-batches that `--sweep` tries. Its
padding-free batches are out of service (1.16), and Liger's kernels need a GPU.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig

from benchmarks.dpo_sides import ADAM, BETA, CLIP, LEARNING_RATE, LOADS, SEED, Job, real_load, train, write_model
from stages.megatron.speed import model_size
from stages.model_files.config import read_config

RESULT = Path(__file__).parent / "results" / "dpo_vs_trl.json"
LOSS_TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-3}
Result = dict[str, Any]
Rounds = list[dict[str, float]]

OURS: dict[str, dict[str, Any]] = {
    "cpu": {"micro_batch_tokens": 512},
    "cuda": {"micro_batch_tokens": 16384},
}
"""Of `MegatronSettings`."""
FASTEST = {"cpu": {"chat": 1, "judge": 1, "short": 4}, "cuda": {"chat": 4, "judge": 2, "short": 8}}
"""Pairs per forward pass (`per_device_train_batch_size`) at which TRL is fastest, by `--sweep`; for GPUs a guess, as
none was swept yet."""
MICRO_BATCHES = (1, 2, 4, 8)
ABLATIONS: dict[str, dict[str, Any]] = {
    "all": {},
    "prompts twice": {"share_prompts": False},
    "all logits": {"loss_logits_only": False},
    "no fused attention": {"attention": "eager"},
    "padded rows": {"packing": False},
    "none of them": {"packing": False, "loss_logits_only": False, "attention": "eager"},
    "large": {"micro_batch_tokens": 4096},
    "large, one chunk": {"micro_batch_tokens": 4096, "logprob_chunk_tokens": 4096},
}
"""Settings of ours that switch techniques off. Padded rows share no prompts. Chunks of the vocabulary's scores matter
to micro-batches of more predictions than a chunk has: hence the last two."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    for flag in ("ablate", "sweep", "check"):
        mode.add_argument(f"--{flag}", dest="mode", action="store_const", const=flag, default="compare")
    parser.add_argument("--device", choices=LOADS, default="cpu")
    parser.add_argument("--model", type=Path, help="a Llama's Hugging Face directory")
    parser.add_argument("--dtype", choices=LOSS_TOLERANCE, help="on a CPU; a GPU computes in bfloat16")
    parser.add_argument("--mix", nargs="+", choices=LOADS["cpu"].mixes, default=list(LOADS["cpu"].mixes))
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of every side")
    parser.add_argument("--batch", type=int, default=16, help="pairs per optimizer step")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("no GPU is at hand")
    if options.mode == "check" and options.device == "cpu":
        parser.error("--check needs --device cuda")
    options.dtype = "bfloat16" if options.device == "cuda" else options.dtype or "float32"
    # Threads that wait sleep: where the machine has other work, spinning would steal time and count as CPU time.
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    os.environ |= {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with tempfile.TemporaryDirectory() as folder:
        load = LOADS["cpu" if options.mode == "check" else options.device]
        if options.model:
            load, model = real_load(options.model), options.model
        else:
            model = write_model(load.model, Path(folder))
        where = conditions(model, load.model, options)
        print(json.dumps(where))
        for mix in options.mix:
            common = {name: getattr(options, name) for name in ("batch", "threads", "device", "dtype")}
            common |= {"folder": model, "load": load, "mix": mix}
            result = {"conditions": where, **MODES[options.mode](common, options.rounds)}
            for side in result["sides"].values():
                side["mfu"] = side["tflops"] / where["gpu"]["bf16_tflops"] if where["gpu"] else None
            show(mix, result)
            kind = [options.mode, *(["cuda"] if options.device == "cuda" else [])]
            kind += [options.model.resolve().parent.name, options.dtype] if options.model else []
            save("_".join(kind), mix, result)


def compare(common: Result, rounds: int) -> Result:
    """Ours and TRL."""
    jobs = {
        "ours": Job(side="ours", settings=OURS[common["device"]], **common),
        "trl": trl_job(FASTEST[common["device"]][common["mix"]], common),
    }
    return summary(measure(jobs, rounds), baseline="trl")


def ablate(common: Result, rounds: int) -> Result:
    """Ours, and ours without each of its techniques."""
    ours = OURS[common["device"]]
    jobs = {name: Job(side="ours", settings=ours | off, **common) for name, off in ABLATIONS.items()}
    return summary(measure(jobs, rounds), baseline="all")


def sweep(common: Result, rounds: int) -> Result:
    """TRL at every size of micro-batch, one after the other: together they may not fit into memory."""
    sizes = [size for size in MICRO_BATCHES if size <= common["batch"]]
    seen = {f"trl {size}": measure({"trl": trl_job(size, common)}, rounds)["trl"] for size in sizes}
    return summary(seen, baseline="trl 1")


def check(common: Result, rounds: int) -> Result:
    """Ours on the GPU in bf16 and on the CPU in fp32."""
    jobs = {
        device: Job(side="ours", settings=OURS[device], **common | {"device": device, "dtype": dtype})
        for device, dtype in (("cpu", "float32"), ("cuda", "bfloat16"))
    }
    return summary(measure(jobs, rounds), baseline="cpu")


MODES = {"compare": compare, "ablate": ablate, "sweep": sweep, "check": check}


def trl_job(size: int, common: Result) -> Job:
    """TRL with `size` pairs per forward pass, or all of a step's."""
    return Job(side="trl", settings={"per_device_train_batch_size": min(size, common["batch"])}, **common)


def measure(jobs: dict[str, Job], rounds: int) -> dict[str, Rounds]:
    """Rounds of each job, in turn, each in its own process, after a warm-up; exits if their losses differ."""
    with started(jobs) as lines:
        seen: dict[str, Rounds] = {name: [] for name in jobs}
        for number in range(rounds + 1):
            for name, line in lines.items():
                line.send(True)
                seen[name].append(line.recv())
                print(f"{name}, round {number}: {seen[name][-1]}", file=sys.stderr, flush=True)
            losses = {name: runs[-1]["loss"] for name, runs in seen.items()}
            tolerance = max(LOSS_TOLERANCE[job.dtype] for job in jobs.values())
            if max(losses.values()) - min(losses.values()) > tolerance:
                sys.exit(f"round {number}: the sides do not do the same, for their losses differ: {losses}")
    job = next(iter(jobs.values()))
    work = arithmetic(job)
    return {
        name: [
            {**run, "pairs_per_second": job.pairs / run["seconds"], "tflops": work / run["seconds"] / 1e12}
            for run in runs
        ]
        for name, runs in seen.items()
    }


def arithmetic(job: Job) -> int:
    """Floating-point operations of a round, each row of a pair by itself."""
    size = model_size(job.folder, read_config(job.folder))
    pairs = (pair for batch in job.batches() for pair in batch)
    rows = (len(pair.prompt + answer) for pair in pairs for answer in (pair.chosen, pair.rejected))
    return sum(map(size.training_flops, rows))


def matrix_product_tflops(size: int = 8192, products: int = 20) -> float:
    """What a bf16 product of two square matrices reaches on the GPU."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _warm in (False, True):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(products):
            a @ b
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
    return 2 * size**3 * products / seconds / 1e12


@contextmanager
def started(jobs: dict[str, Job]) -> Iterator[dict[str, Connection]]:
    """A process per job, asleep until its line is sent True; all end with the context."""
    context, lines, processes = get_context("spawn"), {}, []
    for name, job in jobs.items():
        lines[name], theirs = context.Pipe()
        processes.append(context.Process(target=train, args=(job, theirs), daemon=True))
        processes[-1].start()
        theirs.close()
        lines[name].recv()  # it is ready: no side sets itself up while another is timed
    try:
        yield lines
        for line in lines.values():
            line.send(False)
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()


def summary(seen: dict[str, Rounds], baseline: str) -> Result:
    """Per side: the rounds after the warm-up, their median speed, its ratio to the baseline's, and peak memory."""
    sides = {}
    for name, runs in seen.items():
        ratios, cpu_ratios = (
            [other[clock] / run[clock] for run, other in zip(runs[1:], seen[baseline][1:], strict=True)]
            for clock in ("seconds", "cpu_seconds")
        )
        sides[name] = {
            "pairs_per_second": statistics.median(run["pairs_per_second"] for run in runs[1:]),
            "tflops": statistics.median(run["tflops"] for run in runs[1:]),
            "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
            "cpu_ratio": statistics.median(cpu_ratios),
            "peak_mb": runs[-1]["peak_mb"],
            "losses": [run["loss"] for run in runs],
            "rounds": runs[1:],
        }
    return {"baseline": baseline, "sides": sides}


def conditions(folder: Path, config: LlamaConfig, options: argparse.Namespace) -> Result:
    """When, where and with what."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    model = {name: getattr(config, name) for name in (*sizes, "num_key_value_heads", "tie_word_embeddings")}
    gpu = options.device == "cuda"
    return {
        "gpu": {"name": torch.cuda.get_device_name(), "bf16_tflops": matrix_product_tflops()} if gpu else None,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": names[0].partition(": ")[2] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "model": model | {"parameters": model_size(folder, read_config(folder)).parameters},
        "training": {"beta": BETA, "learning_rate": LEARNING_RATE, "clip": CLIP, "seed": SEED, **ADAM},
        "pairs_per_step": options.batch,
        "threads": options.threads,
        "ours": OURS[options.device] | {"dtype": options.dtype},
        "trl": {"per_device_train_batch_size": FASTEST[options.device]},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "trl", "accelerate", "megatron-core")},
    }


def show(mix: str, result: Result) -> None:
    """A table on standard output."""
    print(
        f"{mix:14} {'pairs/s':>8} {'times ' + result['baseline']:>20} {'by CPU time':>12} {'peak MB':>8} {'loss':>10} "
        f"{'TFLOP/s':>8} {'MFU':>6}"
    )
    for name, side in result["sides"].items():
        ratio = "{median:.2f} ({min:.2f}-{max:.2f})".format(**side["ratio"])
        print(
            f"{name:14} {side['pairs_per_second']:8.3f} {ratio:>20} {side['cpu_ratio']:12.2f} {side['peak_mb']:8.0f} "
            f"{side['losses'][-1]:10.6f} {side['tflops']:8.3g} {format(side['mfu'], '.1%') if side['mfu'] else '-':>6}",
            flush=True,
        )


def save(mode: str, mix: str, result: Result) -> None:
    """Write beside what is known of other modes and mixes."""
    RESULT.parent.mkdir(exist_ok=True)
    known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    known.setdefault(mode, {})[mix] = result
    RESULT.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
