"""The stage `candidates`, with a tiny model: keys, seeds, inputs and shards."""

from pathlib import Path
from typing import Any

import pytest

from stages import candidates
from stages.config import EngineSettings, Sampling
from stages.contracts.artifacts import provenance, read, write
from stages.contracts.errors import StageError
from stages.contracts.ids import Seeds, shard_of
from stages.contracts.schema import frame
from stages.prompting.chat import ChatTokenizer
from stages.tables import CANDIDATE_PROMPTS, CANDIDATES, PROMPTS
from tests.support.records import prompt_row, turns, write_prompts

ENGINE = EngineSettings(max_sequence_length=128, device="cpu", dtype="float32")
SAMPLING = Sampling(max_tokens=8)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "prompts.parquet", [turns(f"Say hello {number}") for number in range(6)])


def candidates_args(model: Path, prompts: Path, name: str, **more: Any) -> candidates.Args:
    values = {
        "samples": 3,
        "sampling": SAMPLING,
        "engine": ENGINE,
        "model": model,
        "prompts": prompts,
        "seed": 5,
        "max_cut_share": 1,
    }
    paths = {"output": prompts.parent / f"{name}.parquet", "model_inputs": prompts.parent / f"{name}_inputs.parquet"}
    return candidates.Args(**{**values, **paths, "iteration": 2, **more})


def test_candidates_have_keys_seeds_and_exact_inputs(tiny_model_dir: Path, prompts: Path) -> None:
    """G3: rows had no key, and came in the order of the ranks."""
    args = candidates_args(tiny_model_dir, prompts, "candidates")
    candidates.main(args)
    found, inputs = read(args.output, CANDIDATES), read(args.model_inputs, CANDIDATE_PROMPTS)
    assert found.height == 18
    for row in found.iter_rows(named=True):
        assert row["candidate_id"] == f"{row['prompt_id']}-2-{row['sample']}"
        assert row["seed"] == Seeds(5, 2).of("candidates", row["prompt_id"], row["sample"])
    chat = ChatTokenizer(tiny_model_dir)
    for row in inputs.iter_rows(named=True):
        assert row["token_ids"] == chat.encode(row["messages"])
    assert provenance(args.output)["seed"] == 5
    assert not list(prompts.parent.glob(".*"))


def test_the_first_samples_see_the_hint_and_training_does_not(tiny_model_dir: Path, tmp_path: Path) -> None:
    plain, hint = [turns("Say hello"), turns("Hi", "Ho", "Again?")], [None, "Say: HO."]
    rows = [prompt_row(messages, sampling_hint=text) for messages, text in zip(plain, hint, strict=True)]
    hinted = [plain[0], turns("Hi", "Ho", "Again? Say: HO.")]
    found = {}
    for name, messages, number in (("hinted", None, 2), ("never", None, 0), ("always", hinted, 0)):
        given = rows if messages is None else [dict(row, messages=one) for row, one in zip(rows, messages, strict=True)]
        path = tmp_path / f"prompts_{name}.parquet"
        write(frame(PROMPTS, given), path, PROMPTS, {})
        args = candidates_args(tiny_model_dir, path, name, hinted=number)
        candidates.main(args)
        keyed = read(args.output, CANDIDATES).select("prompt_id", "sample", "token_ids").rows()
        found[name] = {(prompt, sample): tokens for prompt, sample, tokens in keyed}
        if name != "always":
            inputs = dict(read(args.model_inputs, CANDIDATE_PROMPTS, ["prompt_id", "messages"]).rows())
            assert inputs == {row["prompt_id"]: row["messages"] for row in rows}
    for key, tokens in found["hinted"].items():
        seen = "always" if key[0] == rows[1]["prompt_id"] and key[1] < 2 else "never"
        assert tokens == found[seen][key]
    assert found["always"] != found["never"]


def test_shards_partition_the_work_and_change_nothing(tiny_model_dir: Path, prompts: Path) -> None:
    whole = candidates_args(tiny_model_dir, prompts, "whole")
    candidates.main(whole)
    parts = [candidates_args(tiny_model_dir, prompts, f"part{i}", shard=i, shards=3) for i in range(3)]
    for number, args in enumerate(parts):
        candidates.main(args)
        assert {shard_of(prompt, 3) for prompt in read(args.output, CANDIDATES)["prompt_id"]} <= {number}
    columns = [name for name in CANDIDATES.columns if name != "logprob"]
    joined = read([args.output for args in parts], CANDIDATES, columns).sort("prompt_id", "candidate_id")
    assert joined.equals(read(whole.output, CANDIDATES, columns))


def test_responses_that_are_all_cut_stop_the_stage_before_they_are_judged(tiny_model_dir: Path, prompts: Path) -> None:
    args = candidates_args(tiny_model_dir, prompts, "cut", max_cut_share=0.5, sampling=Sampling(max_tokens=1))
    with pytest.raises(StageError, match=r"1[78] of 18 responses are cut at candidates.sampling.max_tokens .*raise it"):
        candidates.main(args)
    assert not args.output.exists()
