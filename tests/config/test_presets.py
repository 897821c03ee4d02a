"""The Llama presets: on Slurm the right jobs, launched the right way, each with the right model; a layout that fits
model and GPUs."""

import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from stages.config.whole import load
from stages.model_files.families import architecture
from stages.model_files.rank_layout import check_layout

ROOT = Path(__file__).parents[2]
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def plan(folder: Path, *arguments: str) -> str:
    """Snakemake's dry run of the preset in a folder that has its inputs, if only in name."""
    model = folder / "models/Meta-Llama-3-8B-Instruct"
    for directory in (folder / "data", model):
        directory.mkdir(parents=True)
    for name in ("prompts.jsonl", "heldout.jsonl", "2023-04-12_oasst_ready.trees.jsonl.gz"):
        (folder / "data" / name).touch()
    (model / "config.json").write_text(json.dumps(LLAMA))
    for name in ("config", "prompts", "stages", "workflow"):
        (folder / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--configfile", "config/llama3-8b.yaml", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """The preset as it is."""
    folder = tmp_path_factory.mktemp("llama")
    return plan(folder, "--workflow-profile", "workflow/profiles/slurm", "--printshellcmds")


SEEDED = """
megatron: {nodes: 2}
eft: {ift_fraction: 0.5}
create: {enabled: true, model: models/Meta-Llama-3-8B-Instruct}
"""


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """The preset on two nodes, with instruction data and created prompts."""
    folder = tmp_path_factory.mktemp("seeded")
    (folder / "seeded.yaml").write_text(SEEDED)
    return plan(folder, "seeded.yaml", "--printshellcmds")


def test_the_llama_preset_plans_on_slurm(llama):
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", llama.partition("Job stats:")[2], re.MULTILINE))
    # 4 iterations of 16 shards; the meta-judge works in the first two; the base and models 0 to 4 are evaluated.
    expected = {
        "eft_judge": 16,
        "sft": 1,
        "candidates": 64,
        "judge": 64,
        "meta_judge": 32,
        "rate": 2,
        "train": 4,
        "evaluate": 6,
    }
    assert {name: int(jobs[name]) for name in expected} == expected
    trainings = re.findall(r"python -m stages\.(train|reference_logprobs) .*--megatron.processes 8 ", llama)
    assert Counter(trainings) == {"train": 5, "reference_logprobs": 4}
    assert "--engine.backend trtllm" in llama
    by_iteration = re.findall(r"-m stages\.pairs .*?--iteration (\d).*?--length-control ([\d.]+)", llama)
    assert sorted(by_iteration) == [("1", "0.0"), ("2", "0.32"), ("3", "0.32"), ("4", "0.4")]


def test_jobs_lease_the_gpus_that_they_need_and_those_that_handle_data_none(llama):
    leases = set(re.findall(r"-m stages\.contracts\.gpus (\d+) python -m stages\.(\w+) ", llama))
    generating = {("1", stage) for stage in ("candidates", "judge", "meta_judge", "evaluate")}
    assert leases == generating | {("8", stage) for stage in ("train", "reference_logprobs")}


def test_each_model_answers_judges_and_becomes_the_next_one_held_back_by_itself(llama):
    """Self-Rewarding, section 2.4: model t is trained from model t-1, on its judgements of its answers."""
    chain = [(str(t - 1), str(t)) for t in (1, 2, 3, 4)]
    for stage in ("candidates", "judge", "reference_logprobs"):
        pattern = rf"-m stages\.{stage} --model \S+/models/(\d) .*--output \S+/iter-(\d)/"
        assert sorted(set(re.findall(pattern, llama))) == chain
    trained = r"-m stages\.train --model \S+/(\d) .*--reference-model \S+/(\d) .*--output \S+/models/(\d)/manifest"
    assert sorted(re.findall(trained, llama)) == [(before, before, after) for before, after in chain]


def test_training_on_several_nodes_goes_through_srun(seeded):
    launches = re.findall(
        r"srun --nodes 2 --ntasks-per-node 1 --cpu-bind none --kill-on-bad-exit=1 "
        r"torchrun --nnodes 2 --nproc-per-node 8 .* -m (\S+)",
        seeded,
    )
    assert sorted(launches) == ["stages.reference_logprobs"] * 4 + ["stages.train"] * 6


def test_model_0_learns_from_instructions_and_from_judgements_of_the_model_of_instructions_alone(seeded):
    """Self-Rewarding, sections 2.1 and 3.1; the paper counts models from 1."""
    assert set(re.findall(r"-m stages\.judge --model \S+/models/(\w+) .* --iteration 0 ", seeded)) == {"ift"}
    learnt = re.findall(r"--objective sft --model \S+/models/(\w+) --examples (.*) --iteration 0", seeded)
    ift, eft = (f"results/llama3-8b/eft/{name}.parquet" for name in ("ift", "examples"))
    assert sorted(learnt) == [("base", ift), ("base", f"{ift} {eft}")]


def test_one_fixed_model_writes_the_prompts_of_all_iterations(seeded):
    """Self-Rewarding, section 2.2."""
    assert set(re.findall(r"-m stages\.create --model (\S+) ", seeded)) == {"models/Meta-Llama-3-8B-Instruct"}


LLAMA_70B = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 8192,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "vocab_size": 128256,
}


def test_the_self_rewarding_preset_is_the_papers():
    """Self-Rewarding, sections 2 and 3.1; on the ranks that a Llama 2 of 70B allows."""
    preset = load(yaml.safe_load((ROOT / "config/self-rewarding-llama2-70b.yaml").read_text()))
    check_layout(preset.megatron, architecture({**LLAMA_70B, "vocab_size": 32000}), 32)
    assert (preset.run.iterations, preset.candidates.samples, preset.judge.votes) == (2, 4, 3)
    for section, drawn in ((preset.candidates, (0.7, 0.9)), (preset.judge, (0.7, 0.9)), (preset.create, (0.6, 0.9))):
        assert (section.sampling.temperature, section.sampling.top_p) == drawn
    assert preset.create.pool_shots + preset.create.created_shots == 8
    for section, peak, floor in ((preset.eft, 5.5e-6, 1.1e-6), (preset.train, 1e-6, 1e-7)):
        rate = section.optimizer
        assert rate.learning_rate == peak
        assert peak * rate.min_learning_rate_ratio == pytest.approx(floor)
    assert (preset.meta_judge.enabled, preset.pairs.judge_share, preset.pairs.length_control) == (False, 0.0, 0.0)


def test_the_70b_preset_fits_its_gpus():
    """The layout suits the model, and what a GPU holds all the time is what the preset says."""
    settings = {}
    for name in ("llama3-8b", "llama3-70b"):
        update_config(settings, yaml.safe_load((ROOT / f"config/{name}.yaml").read_text()))
    layout = load(settings).megatron
    ranks = layout.processes * layout.nodes
    check_layout(layout, architecture(LLAMA_70B), ranks)
    assert layout.distributed_optimizer
    hidden, kv = LLAMA_70B["hidden_size"], LLAMA_70B["hidden_size"] // 8
    layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * LLAMA_70B["intermediate_size"]
    held = (80 * layer + 2 * LLAMA_70B["vocab_size"] * hidden) / layout.model_parallel
    weights, gradients, optimizer = 2 * held, 4 * held, 12 * held * layout.model_parallel / ranks
    assert [size / 1e9 for size in (weights, gradients, optimizer)] == pytest.approx([8.8, 17.6, 26.5], abs=0.05)
    assert weights + gradients + optimizer < 0.7 * 80e9
