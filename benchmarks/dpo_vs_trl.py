"""DPO training against TRL's `DPOTrainer`, on the CPU: same model, pairs, tokens, loss, optimizer, fp32 and threads.

    .venv/bin/python -m benchmarks.dpo_vs_trl            # ours against TRL at its fastest settings
    .venv/bin/python -m benchmarks.dpo_vs_trl --ablate   # ours with one technique switched off at a time
    .venv/bin/python -m benchmarks.dpo_vs_trl --sweep    # TRL's micro-batch sizes: which is its fastest

A Llama with random weights (`benchmarks.dpo_sides.MODEL`) trains on made-up pairs of three length mixes. Every side
is a process of its own, so that its peak resident set is its own. The sides take turns, one round each, while the
others sleep; the first round of each is a warm-up. In every round all must report the same mean loss: the first step's
is ln 2, and each later one's shows that the updates before it were the same. The reference log-probabilities are worked
out before.

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
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.dpo_sides import ADAM, BETA, CLIP, LEARNING_RATE, MIXES, MODEL, SEED, Job, train, write_model

RESULT = Path(__file__).parent / "results" / "dpo_vs_trl.json"
LOSS_TOLERANCE = 1e-4
Result = dict[str, Any]
Rounds = list[dict[str, float]]

OURS: dict[str, Any] = {"micro_batch_tokens": 1024, "logprob_chunk_tokens": 1024}
"""Of `MegatronSettings`."""
FASTEST = {"chat": 1, "judge": 1, "short": 2}
"""Pairs per forward pass (`per_device_train_batch_size`) at which TRL is fastest, by `--sweep`."""
MICRO_BATCHES = (1, 2, 4, 8)
ABLATIONS: dict[str, dict[str, Any]] = {
    "all": {},
    "prompts twice": {"share_prompts": False},
    "all logits": {"loss_logits_only": False},
    "small chunks": {"logprob_chunk_tokens": 128},
    "padded rows": {"packing": False},
}
"""Settings of ours that switch one technique off."""


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    for flag in ("ablate", "sweep"):
        mode.add_argument(f"--{flag}", dest="mode", action="store_const", const=flag, default="compare")
    parser.add_argument("--mix", nargs="+", choices=MIXES, default=list(MIXES))
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of every side")
    parser.add_argument("--batch", type=int, default=16, help="pairs per optimizer step")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    # Threads that wait sleep: where the machine has other work, spinning would steal time and count as CPU time.
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    os.environ |= {"TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with tempfile.TemporaryDirectory() as folder:
        parameters = write_model(Path(folder))
        where = conditions(parameters, options)
        print(json.dumps(where))
        for mix in options.mix:
            common = {"model": Path(folder), "mix": mix, "batch": options.batch, "threads": options.threads}
            result = {"conditions": where, **MODES[options.mode](common, options.rounds)}
            show(mix, result)
            save(options.mode, mix, result)


def compare(common: Result, rounds: int) -> Result:
    """Ours and TRL."""
    jobs = {
        "ours": Job(side="ours", settings=OURS, **common),
        "trl": trl_job(FASTEST[common["mix"]], common),
    }
    return summary(measure(jobs, rounds), baseline="trl")


def ablate(common: Result, rounds: int) -> Result:
    """Ours, and ours without each of its techniques."""
    jobs = {name: Job(side="ours", settings=OURS | off, **common) for name, off in ABLATIONS.items()}
    return summary(measure(jobs, rounds), baseline="all")


def sweep(common: Result, rounds: int) -> Result:
    """TRL at every size of micro-batch, one after the other: together they may not fit into memory."""
    sizes = [size for size in MICRO_BATCHES if size <= common["batch"]]
    seen = {f"trl {size}": measure({"trl": trl_job(size, common)}, rounds)["trl"] for size in sizes}
    return summary(seen, baseline="trl 1")


MODES = {"compare": compare, "ablate": ablate, "sweep": sweep}


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
            if max(losses.values()) - min(losses.values()) > LOSS_TOLERANCE:
                sys.exit(f"round {number}: the sides do not do the same, for their losses differ: {losses}")
    pairs = next(iter(jobs.values())).pairs
    return {name: [{**run, "pairs_per_second": pairs / run["seconds"]} for run in runs] for name, runs in seen.items()}


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
            "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
            "cpu_ratio": statistics.median(cpu_ratios),
            "peak_mb": runs[-1]["peak_mb"],
            "losses": [run["loss"] for run in runs],
            "rounds": runs[1:],
        }
    return {"baseline": baseline, "sides": sides}


def conditions(parameters: int, options: argparse.Namespace) -> Result:
    """When, where and with what."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    model = {name: getattr(MODEL, name) for name in (*sizes, "num_key_value_heads", "tie_word_embeddings")}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": names[0].partition(": ")[2] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "model": model | {"parameters": parameters},
        "training": {"beta": BETA, "learning_rate": LEARNING_RATE, "clip": CLIP, "seed": SEED, **ADAM},
        "pairs_per_step": options.batch,
        "threads": options.threads,
        "ours": OURS,
        "trl": {"per_device_train_batch_size": FASTEST},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "transformers", "trl", "accelerate", "megatron-core")},
    }


def show(mix: str, result: Result) -> None:
    """A table on standard output."""
    print(
        f"{mix:14} {'pairs/s':>8} {'times ' + result['baseline']:>20} {'by CPU time':>12} {'peak MB':>8} {'loss':>10}"
    )
    for name, side in result["sides"].items():
        ratio = "{median:.2f} ({min:.2f}-{max:.2f})".format(**side["ratio"])
        print(
            f"{name:14} {side['pairs_per_second']:8.3f} {ratio:>20} {side['cpu_ratio']:12.2f} {side['peak_mb']:8.0f} "
            f"{side['losses'][-1]:10.6f}",
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
