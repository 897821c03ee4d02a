"""The Llama preset plans on Slurm: the right jobs, launched the right way."""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
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


def test_the_llama_preset_plans_on_slurm(tmp_path):
    output = plan(tmp_path, "--workflow-profile", "workflow/profiles/slurm", "--printshellcmds")
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", output.partition("Job stats:")[2], re.MULTILINE))
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
    assert output.count("torchrun --standalone --nproc-per-node 8 -m stages.train ") == 5
    assert output.count("torchrun --standalone --nproc-per-node 8 -m stages.reference_logprobs ") == 4
    assert "--engine.backend trtllm" in output
    by_iteration = re.findall(r"-m stages\.pairs .*?--iteration (\d).*?--length-control ([\d.]+)", output)
    assert sorted(by_iteration) == [("1", "0.0"), ("2", "0.32"), ("3", "0.32"), ("4", "0.4")]


def test_training_on_several_nodes_goes_through_srun(tmp_path):
    overlay = tmp_path / "nodes.yaml"
    overlay.write_text("megatron: {nodes: 2}\n")
    output = plan(tmp_path, str(overlay), "--printshellcmds")
    launches = re.findall(
        r"srun --nodes 2 --ntasks-per-node 1 torchrun --nnodes 2 --nproc-per-node 8 .* -m (\S+)", output
    )
    assert sorted(launches) == ["stages.reference_logprobs"] * 4 + ["stages.train"] * 5
